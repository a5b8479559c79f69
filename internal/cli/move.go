package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/transfer"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// leftOut is the error of a command that did what could be done.
type leftOut struct{ n int }

func (e *leftOut) Error() string {
	return count(e.n, "problem") + ": what they concern was left out, all else is done"
}

// offline is what commands share that work on the data directory of a seeder
// which is not running.
type offline struct {
	c      *config.Seeder
	loader *config.Loader
	json   bool
	quiet  bool
}

// bind adds the flags of serve, of which help shows those that matter here.
func (o *offline) bind(cmd *cobra.Command, shown ...string) {
	o.c, o.loader = config.NewSeeder()
	fs := cmd.Flags()
	o.loader.Bind(fs)
	fs.VisitAll(func(f *pflag.Flag) { f.Hidden = true })
	for _, name := range shown {
		fs.Lookup(name).Hidden = false
	}
	cmd.Long += "\n\nEvery flag of `seeder serve` is taken as well, and its --config file and\nenvironment variables count: a command sees the seeder as it runs."
	fs.BoolVar(&o.json, "json", false, "print what was done as JSON")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
}

// load reads the settings.
func (o *offline) load() error { return o.loader.Load(os.LookupEnv) }

// names maps names as the seeder does.
func (o *offline) names() (*registry.Resolver, error) {
	var ups []string
	for _, u := range o.c.Upstreams {
		ups = append(ups, u.Name)
	}
	names, err := registry.NewResolver(ups, o.c.Default())
	if err == nil && len(o.c.LocalRepositories) > 0 {
		err = names.SetLocal(o.c.Repositories())
	}
	return names, err
}

// onDisk refuses a seeder whose content is not in its data directory.
func (o *offline) onDisk(fix string) error {
	if o.c.Bucket == "" {
		return nil
	}
	return &config.Error{Problems: []config.Problem{{Where: "--object-store", What: "this seeder keeps repositories and content in " + o.c.Bucket + ", not in " + o.c.Data, Fix: fix}}}
}

// direct opens the data directory. instead says what to do where a seeder runs.
func (o *offline) direct(cmd *cobra.Command, instead string) (*transfer.Direct, error) {
	if err := o.onDisk("start the seeder and " + instead); err != nil {
		return nil, err
	}
	names, err := o.names()
	if err != nil {
		return nil, err
	}
	log := stderrLog(cmd.ErrOrStderr())
	lo := local.Options{
		Dir: filepath.Join(o.c.Data, "registry"), UploadExpiry: o.c.UploadExpiry, TrashPeriod: o.c.TrashPeriod, Log: log,
		Upstream: registry.CanonicalUpstream(o.c.LocalNames[0]), IsLocal: names.IsLocal,
	}
	quotas, err := o.c.PrefixQuotas()
	if err != nil {
		return nil, err
	}
	for _, q := range quotas {
		if q.Local {
			lo.Quotas = append(lo.Quotas, local.Quota{Prefix: q.Prefix, Size: int64(q.Size)})
		}
	}
	d, err := transfer.OpenDirect(o.c.Data, names, store.Options{Quota: int64(o.c.Quota), Log: log}, func(s *store.Store) (*local.Registry, error) {
		lo.Store = s
		return local.Open(lo)
	})
	if errors.Is(err, store.ErrLocked) {
		err = fmt.Errorf("a seeder runs on %s: %s, or stop it: %w", o.c.Data, instead, err)
	}
	if err != nil {
		return nil, &explained{err} // the store says what to do
	}
	return d, nil
}

// stderrLog shows what a person has to know of the stores that a command opens.
func stderrLog(w io.Writer) *zap.Logger {
	enc := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{LevelKey: "level", MessageKey: "msg", EncodeLevel: zapcore.LowercaseLevelEncoder})
	return zap.New(zapcore.NewCore(enc, zapcore.AddSync(w), zap.WarnLevel))
}

const (
	drawEvery = 500 * time.Millisecond // on a terminal
	sayEvery  = 30 * time.Second       // elsewhere
)

// watch shows progress on stderr while work goes on.
func (o *offline) watch(cmd *cobra.Command, line func() string, work func(ctx context.Context) error) error {
	w := cmd.ErrOrStderr()
	if o.quiet {
		return work(cmd.Context())
	}
	done := make(chan error, 1)
	go func() { done <- work(cmd.Context()) }()
	every, begin, end := sayEvery, "", "\n"
	if isTerminal(w) {
		every, begin, end = drawEvery, "\r\x1b[K", ""
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case err := <-done:
			fmt.Fprint(w, begin)
			return err
		case <-t.C:
			fmt.Fprint(w, begin, line(), end)
		}
	}
}

// moving is what a transfer does at this moment.
func moving(p *transfer.Progress) func() string {
	last, at := int64(0), time.Now()
	return func() string {
		now, bytes := time.Now(), p.Bytes.Load()
		rate := float64(bytes-last) / max(now.Sub(at).Seconds(), 0.001)
		last, at = bytes, now
		return fmt.Sprintf("%d of %s, %s, %s, %s/s: %s", p.Images.Load(), count(int(p.Total.Load()), "image"),
			count(int(p.Blobs.Load()), "blob"), size(bytes), size(int64(rate)), clean(p.Doing()))
	}
}

// finish prints a report and chooses how the command ends. A run that failed
// says first what it has done.
func (o *offline) finish(cmd *cobra.Command, r *transfer.Report, err error) error {
	w := cmd.OutOrStdout()
	if o.json {
		if jerr := printJSON(w, r); err == nil {
			err = jerr
		}
	} else if err == nil || r.Images > 0 || len(r.Problems) > 0 {
		renderReport(w, r)
	}
	if err != nil {
		return explain(err)
	}
	if len(r.Problems) > 0 {
		return &leftOut{len(r.Problems)}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func renderReport(w io.Writer, r *transfer.Report) {
	if r.DryRun {
		for _, s := range r.DryRunImages {
			fmt.Fprintln(w, clean(s))
		}
		fmt.Fprintf(w, "%s would be moved\n", count(len(r.DryRunImages), "image"))
	} else {
		fmt.Fprintf(w, "images     %d, of which %d were there\n", r.Images, r.Unchanged)
		fmt.Fprintf(w, "manifests  %d written\n", r.Manifests)
		fmt.Fprintf(w, "blobs      %d copied (%s), %d linked (%s), %d were there\n", r.BlobsCopied, size(r.BytesCopied), r.BlobsLinked, size(r.BytesLinked), r.BlobsPresent)
	}
	if r.Unreferenced > 0 {
		fmt.Fprintf(w, "not moved  %s that none of these images names\n", count(r.Unreferenced, "blob"))
	}
	renderProblems(w, r.Problems)
}

func renderProblems(w io.Writer, problems []transfer.Problem) {
	if len(problems) == 0 {
		return
	}
	fmt.Fprintln(w, "left out:")
	for _, p := range problems {
		fmt.Fprintf(w, "  %s: %s\n", clean(p.What), clean(p.Why))
	}
}

// explained is an error that says what to do.
type explained struct{ error }

func (e *explained) Unwrap() error { return e.error }

// explain says what to do about errors of the system.
func explain(err error) error {
	remedy := ""
	switch {
	case errors.As(err, new(*explained)):
		return err
	case errors.Is(err, context.Canceled): // not a way to stop it in good order, as it is for serve
		return errors.New("interrupted; run this again, it goes on where it stood")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		remedy = "the disk is full: free some space there and run this again, it goes on where it stood"
	case errors.Is(err, syscall.EROFS):
		remedy = "the file system is read-only: choose another directory or remount it"
	case errors.Is(err, fs.ErrPermission):
		remedy = fmt.Sprintf("this user (%d) may not: run this as the user who owns it", os.Geteuid())
	default:
		return err
	}
	return &explained{fmt.Errorf("%w; %s", err, remedy)}
}

// platforms reads --platform.
func platforms(list []string) ([]registry.Platform, error) {
	var out []registry.Platform
	for _, s := range list {
		p, err := registry.ParsePlatform(s)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--platform: %w", err)}
		}
		out = append(out, p)
	}
	return out, nil
}

// lines reads a list, one entry a line; what follows a # is a comment.
func lines(r io.Reader) ([]string, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxStatus))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, l := range strings.Split(string(content), "\n") {
		l, _, _ = strings.Cut(l, "#")
		if l = strings.TrimSpace(l); l != "" {
			list = append(list, l)
		}
	}
	return list, nil
}
