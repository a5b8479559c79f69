package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/status"
)

// operate are the commands that tell a running seeder what to do.
func operate() []*cobra.Command {
	retention := &cobra.Command{Use: "retention", Short: "Apply the rules about which tags of local repositories stay", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	retention.AddCommand(newCollect("run"))
	return []*cobra.Command{newUsage(), newPrewarm(), newPurge(), newCollect("gc"), retention, newTrash(), newScrub(), newJobs(), newEvents()}
}

func newUsage() *cobra.Command {
	o := &online{}
	return o.command("usage [PREFIX]", "Show what content takes, by upstream and repository",
		`Show what content takes, by upstream and repository: of all, or of those that are
PREFIX or below it, by canonical name (docker.io/library). What several
repositories have counts for each of them.`, cobra.MaximumNArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			q := url.Values{"prefix": args}
			if len(args) == 0 {
				q = nil
			}
			var u admin.Usage
			if err := c.Call(cmd.Context(), http.MethodGet, "/usage?"+q.Encode(), nil, &u); err != nil {
				return err
			}
			return o.print(cmd, u, func(w io.Writer) { showUsage(w, u) })
		})
}

func showUsage(w io.Writer, u admin.Usage) {
	quota := "no quota"
	if u.Store.Quota > 0 {
		quota = size(u.Store.Quota) + " quota"
	}
	fmt.Fprintf(w, "in all %s in %s, %d of them partial; %s\n", size(u.Store.Bytes), count(u.Store.Blobs+u.Store.Partial, "blob"), u.Store.Partial, quota)
	if len(u.Repositories) == 0 {
		fmt.Fprintln(w, "no repository here has any of it")
	}
	if len(u.Upstreams) > 0 {
		t := headed("UPSTREAM", "SIZE", "BLOBS", "LAST PULL")
		for _, x := range u.Upstreams {
			t.row(x.Upstream, size(x.Bytes), fmt.Sprint(x.Blobs), ago(x.LastPull))
		}
		fmt.Fprintln(w)
		t.writeTo(w)
	}
	if len(u.Repositories) > 0 {
		t := headed("REPOSITORY", "SIZE", "BLOBS", "TAGS", "LAST PULL")
		for _, x := range u.Repositories {
			t.row(x.Repository, size(x.Bytes), fmt.Sprint(x.Blobs), fmt.Sprint(x.Tags), ago(x.LastPull))
		}
		fmt.Fprintln(w)
		t.writeTo(w)
	}
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(time.Since(t)) + " ago"
}

func newPurge() *cobra.Command {
	o := &online{}
	return o.command("purge REPOSITORY[:TAG|@DIGEST]", "Drop what is cached of a repository, so that it is fetched anew",
		`Drop what is cached of a repository, so that it is fetched anew: all of it, or
what a tag or digest names. What other repositories have too, what was pushed to
local ones, and what is in use stays.`, cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			r := admin.PurgeRequest{}
			r.Repository, r.Reference = cutReference(args[0])
			var p admin.Purged
			if err := c.Call(cmd.Context(), http.MethodPost, "/purge", r, &p); err != nil {
				return err
			}
			return o.print(cmd, p, func(w io.Writer) {
				fmt.Fprintf(w, "%s: dropped %s in %s and %s; %s stay for others or are in use\n", p.Repository, size(p.Bytes), count(p.Blobs, "blob"), count(p.Tags, "tag"), count(p.Shared, "blob"))
			})
		})
}

// cutReference splits NAME:TAG and NAME@DIGEST; the reference may be missing.
func cutReference(s string) (name, reference string) {
	if name, d, ok := strings.Cut(s, "@"); ok {
		return name, d
	}
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		return s[:i], s[i+1:]
	}
	return s, ""
}

func newCollect(use string) *cobra.Command {
	o := &online{}
	var r admin.CollectRequest
	cmd := o.command(use, "Rid local repositories of what retention does not keep and of what nothing needs",
		`Rid local repositories of what retention does not keep and of what nothing needs:
what the seeder does by itself every --collect-every, now. Pushes and pulls go on
(docs/space.md).`, cobra.NoArgs,
		func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			j, err := o.job(cmd, c, "/collect", r)
			if err != nil {
				return err
			}
			err = o.print(cmd, j, func(w io.Writer) {
				if j.Collect != nil {
					showReport(w, j.Collect)
				}
			})
			return errors.Join(err, failed(j))
		})
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be removed, and remove nothing")
	return cmd
}

func showReport(w io.Writer, r *local.Report) {
	t := headed("REPOSITORY", "KIND", "TAG", "DIGEST", "SIZE", "WHY")
	for _, m := range r.Removed {
		t.row(m.Repository, m.Kind, orDash(m.Tag), shortDigest(string(m.Digest)), size(m.Bytes), m.Reason)
	}
	if len(r.Removed) > 0 {
		t.writeTo(w)
		fmt.Fprintln(w)
	}
	verb := "removed"
	if r.DryRun {
		verb = "would remove"
	}
	fmt.Fprintf(w, "%s %s, %s and %s with %s, of %s\n", verb, count(r.Tags, "tag"), count(r.Manifests, "manifest"), count(r.Blobs, "blob"), size(r.Bytes), repositories(r.Repositories))
	fmt.Fprintf(w, "freed %s in %s; %d expired in the trash\n", size(r.Freed.Bytes), count(r.Freed.Blobs, "blob"), r.Expired)
	if r.Busy > 0 {
		fmt.Fprintf(w, "%s in use, left for the next time\n", repositories(r.Busy))
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "problem: %s\n", clean(p))
	}
}

func repositories(n int) string {
	if n == 1 {
		return "1 repository"
	}
	return fmt.Sprintf("%d repositories", n)
}

func newTrash() *cobra.Command {
	cmd := &cobra.Command{Use: "trash", Short: "List, restore or drop what was deleted from local repositories", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newTrashList(), newTrashRestore(), newTrashEmpty())
	return cmd
}

func newTrashList() *cobra.Command {
	o := &online{}
	return o.command("list [REPOSITORY]", "List what can be restored", "List what was deleted and can be restored, the latest first.", cobra.MaximumNArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			var t admin.Trash
			if err := c.Call(cmd.Context(), http.MethodGet, "/trash?repository="+url.QueryEscape(strings.Join(args, "")), nil, &t); err != nil {
				return err
			}
			return o.print(cmd, t, func(w io.Writer) {
				if len(t.Entries) == 0 {
					fmt.Fprintln(w, "there is nothing in the trash")
					return
				}
				table := headed("REPOSITORY", "KIND", "TAGS", "DIGEST", "SIZE", "WHY", "DELETED", "EXPIRES IN")
				for _, e := range t.Entries {
					table.row(e.Repository, e.Kind, orDash(strings.Join(e.Tags, ",")), orDash(shortDigest(string(e.Digest))), size(e.Bytes), e.Reason, ago(e.Deleted), span(time.Until(e.Expires)))
				}
				table.writeTo(w)
			})
		})
}

func newTrashRestore() *cobra.Command {
	o := &online{}
	return o.command("restore REPOSITORY:TAG|REPOSITORY@DIGEST", "Bring back what was deleted",
		`Bring back what was deleted: a manifest with all that it names and the tags that
went with it, unless these mean something else now.`, cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			r := admin.RestoreRequest{}
			if r.Repository, r.Reference = cutReference(args[0]); r.Reference == "" {
				return &plainError{"say what to restore: REPOSITORY:TAG or REPOSITORY@DIGEST; `seeder trash list` shows what there is"}
			}
			var back local.Restored
			if err := c.Call(cmd.Context(), http.MethodPost, "/trash/restore", r, &back); err != nil {
				return err
			}
			return o.print(cmd, back, func(w io.Writer) {
				fmt.Fprintf(w, "%s has back %s, %s and %s\n", back.Repository, count(len(back.Tags), "tag"), count(len(back.Manifests), "manifest"), count(len(back.Blobs), "blob"))
			})
		})
}

func newTrashEmpty() *cobra.Command {
	o := &online{}
	all := false
	cmd := o.command("empty [REPOSITORY]", "Drop what was deleted for good",
		"Drop what was deleted from a repository, or with --all from all of them, for good.", cobra.MaximumNArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			if all == (len(args) == 1) {
				return &plainError{"give a repository, or --all"}
			}
			q := url.Values{"all": {"true"}}
			if !all {
				q = url.Values{"repository": args}
			}
			var freed local.Freed
			if err := c.Call(cmd.Context(), http.MethodDelete, "/trash?"+q.Encode(), nil, &freed); err != nil {
				return err
			}
			return o.print(cmd, freed, func(w io.Writer) {
				fmt.Fprintf(w, "freed %s in %s\n", size(freed.Bytes), count(freed.Blobs, "blob"))
			})
		})
	cmd.Flags().BoolVar(&all, "all", false, "of all repositories")
	return cmd
}

func newScrub() *cobra.Command {
	o := &online{}
	state := false
	cmd := o.command("scrub", "Check all content on the disk now",
		`Check all content on the disk now: what the seeder does by itself every
--scrub-every, at --scrub-rate (docs/space.md). It goes on when the command has
ended; with --state it is told how far it is, and what is damaged.`, cobra.NoArgs,
		func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			method := http.MethodPost
			if state {
				method = http.MethodGet
			}
			var s status.Scrub
			if err := c.Call(cmd.Context(), method, "/scrub", nil, &s); err != nil {
				return err
			}
			return o.print(cmd, s, func(w io.Writer) { showScrub(w, s, state) })
		})
	cmd.Flags().BoolVar(&state, "state", false, "begin nothing, and show how far the round under way is, or what the last one found")
	return cmd
}

func showScrub(w io.Writer, s status.Scrub, state bool) {
	if !state {
		fmt.Fprintln(w, "a round has begun; `seeder scrub --state` tells how far it is")
		return
	}
	now := time.Now()
	text := scrubText(&status.Status{Scrub: s, StartedAt: now})
	if text == "" {
		text = "none yet"
	}
	fmt.Fprintln(w, text)
	if s.Error != "" {
		fmt.Fprintln(w, clean(s.Error))
	}
	if len(s.Damaged) == 0 {
		return
	}
	t := headed("DAMAGED", "SIZE", "OF", "TRIES", "LAST ERROR")
	for _, d := range s.Damaged {
		t.row(shortDigest(d.Digest), size(d.Size), orDash(strings.Join(d.Sources, ",")), fmt.Sprint(d.Tries), orDash(d.Error))
	}
	fmt.Fprintln(w)
	t.writeTo(w)
}

func newJobs() *cobra.Command {
	o, oc := &online{}, &online{}
	cmd := o.command("jobs", "Show what a running seeder was told to do", "Show jobs that run, and those that ended lately.", cobra.NoArgs,
		func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			var list admin.Jobs
			if err := c.Call(cmd.Context(), http.MethodGet, "/jobs", nil, &list); err != nil {
				return err
			}
			return o.print(cmd, list, func(w io.Writer) {
				t := headed("JOB", "KIND", "STATE", "BY", "STARTED", "DONE", "BYTES", "NOTE")
				for _, j := range list.Jobs {
					note := j.Error
					if j.State == admin.Running {
						note = j.Now.What
					}
					t.row(j.ID, j.Kind, j.State, orDash(j.User), ago(j.Started), fmt.Sprintf("%d/%d", j.Now.Items, j.Now.ItemsTotal), size(j.Now.Bytes), orDash(note))
				}
				t.writeTo(w)
			})
		})
	cmd.AddCommand(oc.command("cancel JOB", "End a job", "End a job. What it has done stays done.", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			var j admin.Job
			if err := c.Call(cmd.Context(), http.MethodDelete, "/jobs/"+url.PathEscape(args[0]), nil, &j); err != nil {
				return err
			}
			j, err := c.Wait(cmd.Context(), args[0], nil)
			if err != nil {
				return err
			}
			return oc.print(cmd, j, func(w io.Writer) { fmt.Fprintf(w, "job %s: %s\n", j.ID, j.State) })
		}))
	return cmd
}

func newEvents() *cobra.Command {
	o := &online{}
	return o.command("events", "Show how the endpoints of events do", "Show for each endpoint what it was told and what waits for it (docs/events.md).", cobra.NoArgs,
		func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			var e admin.Endpoints
			if err := c.Call(cmd.Context(), http.MethodGet, "/events", nil, &e); err != nil {
				return err
			}
			return o.print(cmd, e, func(w io.Writer) {
				if len(e.Endpoints) == 0 {
					fmt.Fprintln(w, "there are no endpoints: `seeder serve --events FILE` names some")
					return
				}
				t := headed("ENDPOINT", "FORMAT", "QUEUED", "OLDEST", "DELIVERED", "DROPPED", "FAILING", "LAST ERROR")
				for _, s := range e.Endpoints {
					t.row(s.Name, s.Format, fmt.Sprint(s.Queued), ago(s.Oldest), fmt.Sprint(s.Delivered), fmt.Sprint(s.Dropped), fmt.Sprint(s.Failing), orDash(s.LastError))
				}
				t.writeTo(w)
			})
		})
}

// headed is a table with names of columns.
func headed(names ...string) *table {
	t := newTable()
	t.row(names...)
	return t
}

// row adds a line.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = clean(c)
	}
	_, _ = io.WriteString(t, strings.Join(cells, "\t")+"\n") // into memory
}
