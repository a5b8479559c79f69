package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/samara-p2p/samara/internal/transfer"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// exporter is a command that writes images out.
type exporter struct {
	offline
	from      string
	platforms []string
	referrers bool
	jobs      int
}

func newExport() *cobra.Command {
	cmd := &cobra.Command{Use: "export", Short: "Write images out, for a site that the network does not reach", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newExportOCI())
	return cmd
}

func newExportOCI() *cobra.Command {
	e := &exporter{}
	cmd := &cobra.Command{Use: "oci DIR|FILE.tar IMAGE...", Short: "Write images into an OCI image layout", Args: cobra.MinimumNArgs(2),
		Long: `Write images into an OCI image layout: a directory, or a tar if the name ends
in .tar. IMAGE is as a client of the seeder writes it: team/app:v1,
docker.io/library/nginx:1.27, or with @DIGEST; - reads a list from stdin. With
--from they are pulled from a running seeder, also those that it has to fetch;
without it they are read from the data directory of one that is not running.

A layout that is there is added to, and what it has is not written again. The
same images make the same bytes. skopeo, crane, containerd, docker and ` + "`seeder\nimport oci`" + ` read it.`}
	e.bind(cmd, "config", "data", "local", "local-name")
	fs := cmd.Flags()
	fs.StringVar(&e.from, "from", "", "URL of a running seeder to pull from, like http://127.0.0.1:5000; credentials are those of docker login")
	fs.IntVar(&e.jobs, "jobs", 4, "blobs of an image at a time")
	referrersFlag(cmd, &e.referrers)
	platformFlag(cmd, &e.platforms)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return runs(func(cmd *cobra.Command) error {
			if err := e.load(); err != nil {
				return err
			}
			return e.run(cmd, args[0], args[1:])
		})(cmd, nil)
	}
	return cmd
}

func (e *exporter) run(cmd *cobra.Command, to string, images []string) error {
	if len(images) == 1 && images[0] == "-" {
		var err error
		if images, err = lines(cmd.InOrStdin()); err != nil {
			return err
		}
	}
	chosen, err := platforms(e.platforms)
	if err != nil {
		return err
	}
	var items []transfer.Item
	for _, im := range images {
		repo, ref, err := transfer.ParseImage(im)
		if err != nil {
			return &usageError{err}
		}
		items = append(items, transfer.Item{Repository: repo, Reference: ref, ToRepository: repo, ToTag: ref})
	}
	src, done, err := e.source(cmd)
	if err != nil {
		return err
	}
	r := transfer.NewReport()
	err = e.write(cmd, to, func(l *transfer.LayoutWriter) error {
		c := &transfer.Copier{Source: src, Target: l, Progress: &transfer.Progress{}, Report: r, Platforms: chosen, Referrers: e.referrers, Jobs: e.jobs}
		err := e.watch(cmd, moving(c.Progress), func(ctx context.Context) error { return c.Run(ctx, items) })
		return errors.Join(err, l.Finish())
	})
	return e.finish(cmd, r, errors.Join(err, done()))
}

// write has a layout written to a directory or a tar. A tar is made of a
// directory beside it, from which the next run goes on if this one is
// interrupted.
func (e *exporter) write(cmd *cobra.Command, to string, fill func(*transfer.LayoutWriter) error) error {
	tar := strings.HasSuffix(to, ".tar")
	dir := to
	if tar {
		dir = to + ".partial"
	} else if strings.HasSuffix(to, ".gz") || strings.HasSuffix(to, ".tgz") || strings.HasSuffix(to, ".zst") {
		return &usageError{fmt.Errorf("%s: layers are compressed already; give a directory, or a name that ends in .tar", to)}
	}
	l, err := transfer.NewLayoutWriter(dir)
	if err == nil {
		err = fill(l)
	}
	if err != nil || !tar {
		return err
	}
	f, err := renameio.NewPendingFile(to, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer f.Cleanup() //nolint:errcheck // what went wrong with the file is told already
	err = e.watch(cmd, func() string { return "writing " + to }, func(context.Context) error { return transfer.WriteTar(dir, f) })
	if err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// source opens where the images are.
func (e *exporter) source(cmd *cobra.Command) (transfer.Source, func() error, error) {
	if e.from == "" {
		d, err := e.direct(cmd, "pull from it with --from http://HOST:PORT (its --listen)")
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	}
	const seeder = "seeder"
	client, err := newClient(e.c, []upstream.Registry{{Name: seeder, URL: strings.TrimSuffix(e.from, "/")}})
	if err != nil {
		return nil, nil, &usageError{fmt.Errorf("--from: %w", err)} // the URL may hold a password
	}
	split := func(repo string) (registry.Name, error) {
		return registry.Name{Upstream: seeder, Repository: repo}, nil
	}
	return &transfer.Upstreams{Client: client, Split: split}, func() error { client.Close(); return nil }, nil
}
