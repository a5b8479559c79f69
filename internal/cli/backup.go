package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/samara-p2p/samara/internal/backup"
	"github.com/samara-p2p/samara/pkg/store"
)

func newBackup() *cobra.Command {
	o := &offline{}
	var keep int
	var proxied bool
	cmd := &cobra.Command{Use: "backup DIR", Short: "Save what cannot be fetched again, while the seeder serves", Args: cobra.ExactArgs(1),
		Long: `Save what cannot be fetched again into a new snapshot of the backup DIR, which is
made if need be: local repositories with their content, identity.key, swarm.key
and token-keys.json. The seeder may serve, take pushes and collect meanwhile.
Content that the backup has is not copied again; a run that was interrupted is
taken up by the next one. DIR holds secrets: keep it as you keep the data
directory. docs/moving.md has more.`}
	o.bind(cmd, "config", "data")
	cmd.Flags().IntVar(&keep, "keep", 0, "how many snapshots stay, this one included; 0: all. Nothing is dropped where something was left out")
	cmd.Flags().BoolVar(&proxied, "proxied", false, "save also what was fetched from upstreams")
	cmd.RunE = withArgs(o, func(cmd *cobra.Command, args []string) error {
		if keep < 0 {
			return &usageError{errors.New("--keep: want a number of snapshots")}
		}
		if err := o.onDisk("protect the bucket itself (versions, replication), and copy identity.key, swarm.key and token-keys.json of the data directory"); err != nil {
			return err
		}
		p := &backup.Progress{}
		var r *backup.Report
		err := o.watch(cmd, saving(p), func(ctx context.Context) (err error) {
			r, err = backup.Backup(ctx, backup.Options{Data: o.c.Data, Dir: args[0], Proxied: proxied, Keep: keep, Program: longVersion("seeder"), Progress: p})
			return err
		})
		return o.finishBackup(cmd, r, err)
	})
	return cmd
}

func newRestore() *cobra.Command {
	o := &offline{}
	var snapshot string
	cmd := &cobra.Command{Use: "restore DIR", Short: "Make a data directory of a backup", Args: cobra.ExactArgs(1),
		Long: `Make a data directory of a snapshot in the backup DIR. --data must be empty, or
missing. A run that was interrupted is taken up by the next one; no seeder
starts on the directory before.`}
	o.bind(cmd, "config", "data")
	cmd.Flags().StringVar(&snapshot, "snapshot", "", "ID of the snapshot; by itself the newest")
	cmd.RunE = withArgs(o, func(cmd *cobra.Command, args []string) error {
		p := &backup.Progress{}
		var r *backup.Report
		err := o.watch(cmd, saving(p), func(ctx context.Context) (err error) {
			r, err = backup.Restore(ctx, backup.RestoreOptions{Dir: args[0], Data: o.c.Data, Snapshot: snapshot, Progress: p})
			return err
		})
		return o.finishBackup(cmd, r, err)
	})
	return cmd
}

func newVerify() *cobra.Command {
	o := &offline{}
	cmd := &cobra.Command{Use: "verify [DIR]", Short: "Read a backup, or a data directory, and say what is damaged", Args: cobra.MaximumNArgs(1),
		Long: `Read all of the backup DIR again and say what is damaged or missing, or without
DIR the data directory of a seeder that is not running. Nothing is changed.`}
	o.bind(cmd, "config", "data")
	cmd.RunE = withArgs(o, func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			if err := o.onDisk("the object store checks what it keeps; name a backup to verify that"); err != nil {
				return err
			}
		}
		p := &backup.Progress{}
		var c *backup.Checked
		err := o.watch(cmd, saving(p), func(ctx context.Context) (err error) {
			if len(args) == 1 {
				c, err = backup.Verify(ctx, args[0], p)
			} else {
				c, err = backup.VerifyData(ctx, o.c.Data, p)
			}
			return err
		})
		if errors.Is(err, store.ErrLocked) {
			err = fmt.Errorf("a seeder runs on %s: stop it, or verify a backup of it: %w", o.c.Data, err)
		}
		return o.finishVerify(cmd, c, err)
	})
	return cmd
}

// withArgs runs a command with its arguments, after the settings were read.
func withArgs(o *offline, f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return runs(func(cmd *cobra.Command) error {
			if err := o.load(); err != nil {
				return err
			}
			return f(cmd, args)
		})(cmd, nil)
	}
}

// saving is what a backup does at this moment.
func saving(p *backup.Progress) func() string {
	return func() string {
		return fmt.Sprintf("%s, %s: %s", count(int(p.Blobs.Load()), "blob"), size(p.Bytes.Load()), clean(p.Doing()))
	}
}

// finishBackup prints what was saved or restored, and chooses how the command
// ends.
func (o *offline) finishBackup(cmd *cobra.Command, r *backup.Report, err error) error {
	w := cmd.OutOrStdout()
	if o.json {
		if jerr := printJSON(w, r); err == nil {
			err = jerr
		}
	} else if err == nil {
		renderSnapshots(w, []backup.Snapshot{r.Snapshot})
		fmt.Fprintf(w, "copied    %s (%s) in %s\n", count(int(r.BlobsCopied), "blob"), size(r.BytesCopied), span(time.Duration(r.Seconds*float64(time.Second))))
		for _, id := range r.Dropped {
			fmt.Fprintf(w, "dropped   %s\n", id)
		}
		if r.BytesFreed > 0 {
			fmt.Fprintf(w, "freed     %s\n", size(r.BytesFreed))
		}
		renderDamage(w, "left out:", r.Problems)
	}
	if err != nil {
		return explain(err)
	}
	if len(r.Problems) > 0 {
		return &leftOut{len(r.Problems)}
	}
	return nil
}

// finishVerify prints what was found, and chooses how the command ends.
func (o *offline) finishVerify(cmd *cobra.Command, c *backup.Checked, err error) error {
	w := cmd.OutOrStdout()
	if o.json {
		if jerr := printJSON(w, c); err == nil {
			err = jerr
		}
	} else if err == nil {
		renderSnapshots(w, c.Snapshots)
		fmt.Fprintf(w, "read      %s (%s), %s\n", count(int(c.Blobs), "blob"), size(c.Bytes), count(c.Tags, "tag"))
		renderDamage(w, "damaged:", c.Problems)
	}
	if err != nil {
		return explain(err)
	}
	if len(c.Problems) > 0 {
		return &damaged{len(c.Problems)}
	}
	return nil
}

// damaged is the error of a command that was to find damage.
type damaged struct{ n int }

func (e *damaged) Error() string { return count(e.n, "problem") + " found" }

func renderSnapshots(w io.Writer, list []backup.Snapshot) {
	for _, s := range list {
		fmt.Fprintf(w, "snapshot  %s: %s, %s, %s (%s)\n", clean(s.ID), count(s.Tags, "tag"), count(s.Files, "file"), count(s.Blobs, "blob"), size(s.Bytes))
	}
}

func renderDamage(w io.Writer, title string, problems []backup.Problem) {
	if len(problems) == 0 {
		return
	}
	fmt.Fprintln(w, title)
	for _, p := range problems {
		fmt.Fprintf(w, "  %s: %s\n", clean(p.What), clean(p.Why))
	}
}
