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
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/prewarm"
)

// hosts are flags that say which hosts are meant, and how.
type hosts struct {
	target prewarm.Target
	rate   config.ByteSize
	by     string
}

func (h *hosts) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&h.target.All, "all", false, "to all hosts")
	f.StringSliceVar(&h.target.Zones, "zones", nil, "to hosts of these zones, like a,b")
	f.IntVar(&h.target.Hosts, "hosts", 0, "to so many hosts, spread over zones")
	f.StringSliceVar(&h.target.Peers, "peers", nil, "to hosts with these peer IDs")
	f.Var(&byteSize{&h.rate}, "rate", "bytes per second and host, like 20MiB; at least 1MiB; by itself no limit")
}

func (h *hosts) given() bool {
	return h.target.All || len(h.target.Zones) > 0 || h.target.Hosts != 0 || len(h.target.Peers) > 0
}

// byteSize is a config.ByteSize as a flag.
type byteSize struct{ v *config.ByteSize }

func (b *byteSize) String() string {
	if b.v == nil || *b.v == 0 {
		return ""
	}
	return b.v.String()
}

func (b *byteSize) Set(s string) (err error) {
	*b.v, err = config.ParseByteSize(s)
	return err
}

func (b *byteSize) Type() string { return "size" }

// deadline reads a time of day (the next one), a span, or a whole time.
func deadline(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(d), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	t, err := time.ParseInLocation("15:04", s, now.Location())
	if err != nil {
		return t, &plainError{fmt.Sprintf("--by %s: want a time of day like 06:00, a time from now like 90m, or 2027-01-31T06:00:00Z", s)}
	}
	t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location())
	if !t.After(now) {
		t = t.AddDate(0, 0, 1)
	}
	return t, nil
}

func newPrewarm() *cobra.Command {
	o, h := &online{}, &hosts{}
	var r admin.PrewarmRequest
	wait := false
	cmd := o.command("prewarm IMAGE...", "Have images fetched before somebody pulls them",
		`Have images fetched before somebody pulls them: what a pull would fetch, and no
more. Without --all, --zones, --hosts or --peers the seeder fetches them; with one
of these hosts do, from one another. Hosts that come late get them until --by. Images
are written as clients do (docker.io/library/alpine:3.22, ghcr.io/acme/app@sha256:…);
what a tag means is asked once. docs/prewarm.md has more.`, cobra.MinimumNArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			r.Images = args
			if h.given() {
				return o.order(cmd, c, h, r, wait)
			}
			if h.by != "" || h.rate != 0 || wait {
				return &plainError{"--by, --rate and --wait are about hosts: give --all, --zones, --hosts or --peers"}
			}
			j, err := o.job(cmd, c, "/prewarm", r)
			if err != nil {
				return err
			}
			err = o.print(cmd, j, func(w io.Writer) { showPrewarmed(w, j.Prewarm) })
			return errors.Join(err, failed(j))
		})
	h.bind(cmd)
	cmd.Flags().StringVar(&h.by, "by", "", "deadline: 06:00, 90m or 2027-01-31T06:00:00Z; by itself a day from now")
	cmd.Flags().BoolVar(&wait, "wait", false, "show how far hosts are until all have ended")
	cmd.Flags().StringArrayVar(&r.Platforms, "platform", nil, "platform of an image for several, like linux/arm64, or all; repeatable; by itself that of who fetches it")
	cmd.Flags().IntVar(&r.Parallel, "parallel", 3, "blobs that the seeder fetches at a time, 1 to 16")
	cmd.AddCommand(newOrderList(), newOrderShow(), newOrderCancel(), newSchedule())
	return cmd
}

func showPrewarmed(w io.Writer, p *admin.PrewarmResult) {
	if p == nil {
		return
	}
	for _, i := range p.Images {
		if i.Error != "" {
			fmt.Fprintf(w, "%s: %s\n", i.Image, clean(i.Error))
			continue
		}
		fmt.Fprintf(w, "%s: %s, %s in %s, of these %s fetched now\n", i.Image, shortDigest(string(i.Digest)), size(i.Bytes), count(i.Blobs, "blob"), size(i.Fetched))
	}
}

// order gives an order to hosts.
func (o *online) order(cmd *cobra.Command, c *admin.Client, h *hosts, r admin.PrewarmRequest, wait bool) error {
	by, err := deadline(h.by, time.Now())
	if err != nil {
		return err
	}
	var v prewarm.Order
	in := prewarm.Request{Images: r.Images, Platforms: r.Platforms, Target: h.target, Rate: int64(h.rate), By: by}
	if err := c.Call(cmd.Context(), http.MethodPost, "/prewarm/orders", in, &v); err != nil {
		return err
	}
	if !wait {
		return o.print(cmd, v, func(w io.Writer) {
			fmt.Fprintf(w, "order %s, by %s; `seeder prewarm show %s` tells how far it is\n", v.ID, v.By.Local().Format(time.DateTime), v.ID)
		})
	}
	return o.await(cmd, c, v.ID)
}

// await shows an order until it is no longer running. An interrupt leaves it alone.
func (o *online) await(cmd *cobra.Command, c *admin.Client, id string) error {
	w := cmd.ErrOrStderr()
	draw := isTerminal(w)
	seconds := "30"
	if draw {
		seconds = "1"
	}
	for {
		var v prewarm.Order
		if err := c.Call(cmd.Context(), http.MethodGet, "/prewarm/orders/"+url.PathEscape(id)+"?wait="+seconds, nil, &v); err != nil {
			if cmd.Context().Err() != nil {
				return &plainError{fmt.Sprintf("order %s goes on; `seeder prewarm cancel %s` ends it", id, id)}
			}
			return err
		}
		if draw {
			fmt.Fprint(w, "\r\x1b[K")
		}
		if v.State != prewarm.Running {
			err := o.print(cmd, v, func(w io.Writer) { showOrder(w, v) })
			return errors.Join(err, orderError(v))
		}
		if draw {
			fmt.Fprint(w, clean(fmt.Sprintf("order %s: %d of %s done, %d failed, %s of %s", v.ID, v.HostsDone, count(v.HostsTotal, "host"), v.HostsFailed, size(v.Bytes), size(v.BytesTotal))))
		}
	}
}

func orderError(v prewarm.Order) error {
	if v.State == prewarm.Done {
		return nil
	}
	return &plainError{strings.TrimSuffix(fmt.Sprintf("order %s: %s: %s", v.ID, v.State, v.Error), ": ")}
}

func showOrder(w io.Writer, v prewarm.Order) {
	fmt.Fprintf(w, "order %s: %s; %d of %s done, %d failed; %s of %s; by %s\n", v.ID, v.State, v.HostsDone, count(v.HostsTotal, "host"), v.HostsFailed,
		size(v.Bytes), size(v.BytesTotal), v.By.Local().Format(time.DateTime))
	for _, i := range v.Images {
		what := "asking what it means"
		if i.Error != "" {
			what = i.Error
		} else if i.Digest != "" {
			what = string(i.Digest)
		}
		fmt.Fprintf(w, "%s: %s\n", i.Image, clean(what))
	}
	if len(v.Hosts) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := headed("HOST", "ZONE", "ADDRESS", "STATE", "IMAGES", "BYTES", "OF", "ERROR")
	for _, h := range v.Hosts {
		t.row(h.Peer, orDash(h.Zone), orDash(h.Address), h.State, fmt.Sprintf("%d/%d", h.ImagesDone, h.Images), size(h.Bytes), size(h.BytesTotal), orDash(h.Error))
	}
	t.writeTo(w)
}

func newOrderList() *cobra.Command {
	o := &online{}
	return o.command("list", "List orders to hosts", "List orders to hosts that are open, and those that ended lately.", cobra.NoArgs,
		func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			var v admin.Orders
			if err := c.Call(cmd.Context(), http.MethodGet, "/prewarm/orders", nil, &v); err != nil {
				return err
			}
			return o.print(cmd, v, func(w io.Writer) {
				t := headed("ORDER", "STATE", "GIVEN", "USER", "SCHEDULE", "IMAGES", "DONE", "FAILED", "BYTES", "LEFT")
				for _, x := range v.Orders {
					left := "-"
					if x.Open {
						left = span(time.Until(x.By))
					}
					t.row(x.ID, x.State, ago(x.Created), orDash(x.User), orDash(x.Schedule), fmt.Sprint(len(x.Images)), fmt.Sprintf("%d/%d", x.HostsDone, x.HostsTotal), fmt.Sprint(x.HostsFailed), size(x.Bytes), left)
				}
				t.writeTo(w)
			})
		})
}

func newOrderShow() *cobra.Command {
	o := &online{}
	wait := false
	cmd := o.command("show ORDER", "Show how far hosts are with an order", "Show how far hosts are with an order.", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			if wait {
				return o.await(cmd, c, args[0])
			}
			var v prewarm.Order
			if err := c.Call(cmd.Context(), http.MethodGet, "/prewarm/orders/"+url.PathEscape(args[0]), nil, &v); err != nil {
				return err
			}
			return o.print(cmd, v, func(w io.Writer) { showOrder(w, v) })
		})
	cmd.Flags().BoolVar(&wait, "wait", false, "until all have ended")
	return cmd
}

func newOrderCancel() *cobra.Command {
	o := &online{}
	return o.command("cancel ORDER", "Take an order back", "Take an order back: hosts stop fetching. What they have stays.", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			var v prewarm.Order
			if err := c.Call(cmd.Context(), http.MethodDelete, "/prewarm/orders/"+url.PathEscape(args[0]), nil, &v); err != nil {
				return err
			}
			return o.print(cmd, v, func(w io.Writer) { fmt.Fprintf(w, "order %s: %s\n", v.ID, v.State) })
		})
}

func newSchedule() *cobra.Command {
	cmd := &cobra.Command{Use: "schedule", Short: "Have orders given at times", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	o, h, list, remove := &online{}, &hosts{}, &online{}, &online{}
	in := admin.ScheduleRequest{}
	set := o.command("set NAME CRON IMAGE...", "Make or replace a schedule",
		`Make a schedule, or replace the one of that name. CRON is five fields, like
"0 5 * * 1-5", or @daily, in the time zone of the seeder (or CRON_TZ=Europe/Paris
before it). Each run asks anew what tags mean, and takes the place of the run before.`, cobra.MinimumNArgs(3),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			in.Cron, in.Images, in.Target, in.Rate = args[1], args[2:], h.target, int64(h.rate)
			var v prewarm.Schedule
			if err := c.Call(cmd.Context(), http.MethodPut, "/prewarm/schedules/"+url.PathEscape(args[0]), in, &v); err != nil {
				return err
			}
			return o.print(cmd, v, func(w io.Writer) {
				fmt.Fprintf(w, "schedule %s runs next at %s\n", v.Name, v.Next.Local().Format(time.DateTime))
			})
		})
	h.bind(set)
	set.Flags().StringVar(&in.Within, "within", "", "deadline after each run, like 6h; by itself 24h")
	set.Flags().StringArrayVar(&in.Platforms, "platform", nil, "platform of an image for several, like linux/arm64, or all; repeatable; by itself each host's own")
	cmd.AddCommand(set, list.command("list", "List schedules", "List schedules, and when they run.", cobra.NoArgs,
		func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			var v admin.Schedules
			if err := c.Call(cmd.Context(), http.MethodGet, "/prewarm/schedules", nil, &v); err != nil {
				return err
			}
			return list.print(cmd, v, func(w io.Writer) {
				t := headed("SCHEDULE", "CRON", "IMAGES", "LAST RUN", "ORDER", "NEXT RUN")
				for _, s := range v.Schedules {
					t.row(s.Name, s.Cron, strings.Join(s.Images, ","), ago(s.Last), orDash(s.LastOrder), s.Next.Local().Format(time.DateTime))
				}
				t.writeTo(w)
			})
		}), remove.command("remove NAME", "Remove a schedule", "Remove a schedule. Orders that it gave go on.", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			var v prewarm.Schedule
			if err := c.Call(cmd.Context(), http.MethodDelete, "/prewarm/schedules/"+url.PathEscape(args[0]), nil, &v); err != nil {
				return err
			}
			return remove.print(cmd, v, func(w io.Writer) { fmt.Fprintf(w, "schedule %s is removed\n", v.Name) })
		}))
	return cmd
}
