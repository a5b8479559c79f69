package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/transfer"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// importer is a command that takes images in.
type importer struct {
	offline
	to               string
	include, exclude []string
	renames          []string
	platforms        []string
	name             string
	referrers        bool
	dryRun           bool
	jobs             int
}

func newImport() *cobra.Command {
	cmd := &cobra.Command{Use: "import", Short: "Take images into local repositories", Args: cobra.NoArgs,
		Long: `Take images into local repositories: of another registry's data directory, of
an OCI image layout, or of a list. Without --to the seeder must not be running;
with --to it is pushed to. A run that was interrupted is taken up by the next
one: what is there is not moved again. docs/moving.md has more.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newImportRegistry(), newImportOCI(), newImportImages())
	return cmd
}

// command makes one of the import commands.
func (i *importer) command(use, short, long string, run func(cmd *cobra.Command, arg string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.ExactArgs(1)}
	i.bind(cmd, "config", "data", "local", "local-name")
	fs := cmd.Flags()
	fs.StringVar(&i.to, "to", "", "URL of a running registry to push to, like http://127.0.0.1:5000; credentials are those of docker login")
	fs.StringArrayVar(&i.include, "include", nil, "images to move, like team/** or team/app:v1.*; repeatable; by itself all")
	fs.StringArrayVar(&i.exclude, "exclude", nil, "images to leave out; repeatable")
	fs.StringArrayVar(&i.renames, "rename", nil, "FROM=TO: prefix of repositories and what stands for it here; =TO puts TO/ before all; repeatable, the first that matches counts")
	fs.BoolVar(&i.dryRun, "dry-run", false, "say what would be moved, and move nothing")
	fs.IntVar(&i.jobs, "jobs", 4, "blobs of an image at a time")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return runs(func(cmd *cobra.Command) error {
			if err := i.load(); err != nil {
				return err
			}
			return run(cmd, args[0])
		})(cmd, nil)
	}
	return cmd
}

// platformFlag is of commands that read indexes of which not all is wanted.
func platformFlag(cmd *cobra.Command, list *[]string) {
	cmd.Flags().StringArrayVar(list, "platform", nil, "platform to move of an image that has several, like linux/arm64; repeatable; by itself all. The image has another digest then")
}

func referrersFlag(cmd *cobra.Command, on *bool) {
	cmd.Flags().BoolVar(on, "referrers", false, "take along what refers to the images: signatures, attestations, SBOMs (also under cosign's tags)")
}

func newImportRegistry() *cobra.Command {
	i := &importer{}
	return i.command("registry DIR", "Take in the data directory of a distribution registry (registry:2)",
		`Take in the data directory of a distribution registry (registry:2, registry:3,
Debian's docker-registry): the directory that its configuration names as
rootdirectory. All repositories, tags and manifests are moved with what they
name; each digest is checked. Content on the same file system is not copied but
linked, where nobody else may write to it. DIR is only read: the registry may
run, but what is pushed to it meanwhile may be missed.`,
		func(cmd *cobra.Command, dir string) error {
			src, err := transfer.OpenDistribution(dir)
			if err != nil {
				return explain(err)
			}
			repos, err := src.Repositories()
			var images [][2]string
			for _, repo := range repos {
				var refs []string
				if err == nil {
					refs, err = src.References(repo)
				}
				for _, ref := range refs {
					images = append(images, [2]string{repo, ref})
				}
			}
			if err != nil {
				return explain(err)
			}
			c, err := i.run(cmd, src, images, transfer.NewReport(), func(c *transfer.Copier, items []transfer.Item) error {
				seen := make(map[string]bool)
				for _, it := range items {
					if seen[it.Repository] {
						continue
					}
					seen[it.Repository] = true
					blobs, err := src.Blobs(it.Repository)
					if err != nil {
						return err
					}
					for _, d := range blobs {
						if !c.Moved(it.ToRepository, d) {
							c.Report.Unreferenced++
						}
					}
				}
				return nil
			})
			return i.finish(cmd, c, err)
		})
}

func newImportOCI() *cobra.Command {
	i := &importer{referrers: true} // they are in the layout
	cmd := i.command("oci DIR|TAR", "Take in an OCI image layout, or an archive of docker save",
		`Take in an OCI image layout, in a directory or a tar, or an archive of docker
save. Images are called what index.json calls them (org.opencontainers.image.ref.name,
or io.containerd.image.name), without the host; --name is for those that have
a tag for a name, or none.`,
		func(cmd *cobra.Command, path string) error {
			src, images, nameless, err := openOCI(path, i.name)
			if err != nil {
				return explain(err)
			}
			defer src.Close()
			r := transfer.NewReport()
			for _, p := range nameless {
				r.Add(p.What, p.Why)
			}
			r, err = i.run(cmd, src, images, r, nil)
			return i.finish(cmd, r, err)
		})
	cmd.Flags().StringVar(&i.name, "name", "", "repository of images that have a tag for a name, or none")
	platformFlag(cmd, &i.platforms)
	return cmd
}

// closingSource is a source that has to be closed.
type closingSource interface {
	transfer.Source
	io.Closer
}

// openOCI opens what there is: a layout, or else a docker archive.
func openOCI(path, name string) (closingSource, [][2]string, []transfer.Problem, error) {
	l, err := transfer.OpenLayout(path, name)
	if err == nil {
		return l, l.Images(), l.Nameless, nil
	}
	if fi, serr := os.Stat(path); !errors.Is(err, fs.ErrNotExist) || serr != nil || fi.IsDir() {
		return nil, nil, nil, err
	}
	a, err := transfer.OpenDockerArchive(path)
	if err != nil {
		return nil, nil, nil, err
	}
	return struct {
		transfer.Source
		io.Closer
	}{a, io.NopCloser(nil)}, a.Images(), nil, nil
}

func newImportImages() *cobra.Command {
	i := &importer{}
	cmd := i.command("images FILE|-", "Pull a list of images into local repositories",
		`Pull a list of images into local repositories. FILE has one on each line, like
docker.io/library/nginx:1.27, and after it, if its repository is not to be
called the same without the host, what it is to be called: REPOSITORY:TAG. What
follows a # is a comment. Registries are those of --upstream, with their
settings; others are asked under their own name by https. Credentials are those of
docker login.`,
		func(cmd *cobra.Command, path string) error {
			list, err := readList(cmd, path)
			if err != nil {
				return explain(err)
			}
			src, items, err := i.upstreams(list)
			if err != nil {
				return err
			}
			defer src.Client.Close()
			r := transfer.NewReport()
			err = i.move(cmd, src, items, r, nil)
			return i.finish(cmd, r, err)
		})
	referrersFlag(cmd, &i.referrers)
	platformFlag(cmd, &i.platforms)
	return cmd
}

func readList(cmd *cobra.Command, path string) ([]string, error) {
	if path == "-" {
		return lines(cmd.InOrStdin())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return lines(f)
}

// upstreams reads the list, and finds where each image comes from.
func (i *importer) upstreams(list []string) (*transfer.Upstreams, []transfer.Item, error) {
	sel, err := i.selection()
	if err != nil {
		return nil, nil, err
	}
	known := make(map[string]bool)
	regs := daemon.Registries(i.c.Upstreams)
	for _, r := range regs {
		known[r.Name] = true
	}
	def := i.c.Default()
	var items []transfer.Item
	for _, line := range list {
		it, name, err := listed(sel, line, def)
		if err != nil {
			return nil, nil, err
		}
		if !known[name.Upstream] {
			known[name.Upstream] = true
			regs = append(regs, wellKnown(name.Upstream))
		}
		if sel.Chosen(name.Repository, it.Reference) {
			items = append(items, it)
		}
	}
	client, err := newClient(i.c, regs)
	if err != nil {
		return nil, nil, err
	}
	return &transfer.Upstreams{Client: client, Split: registry.ParseName}, items, nil
}

// wellKnown is a registry that is not configured.
func wellKnown(name string) upstream.Registry {
	for _, r := range daemon.Registries(config.DefaultUpstreams()) {
		if r.Name == name {
			return r
		}
	}
	return upstream.Registry{Name: name, URL: "https://" + name}
}

// listed reads a line of the list.
func listed(sel *transfer.Selection, line, def string) (transfer.Item, registry.Name, error) {
	words := strings.Fields(line)
	repo, ref, err := transfer.ParseImage(words[0])
	if err == nil && len(words) > 2 {
		err = fmt.Errorf("%q: want an image, and what it is to be called", line)
	}
	if err != nil {
		return transfer.Item{}, registry.Name{}, err
	}
	host, rest := transfer.Host(repo)
	if host == "" {
		host = def
	}
	if host == registry.DockerHub && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	name, err := registry.ParseName(host + "/" + rest)
	if err != nil {
		return transfer.Item{}, name, fmt.Errorf("%q: name its registry, as in docker.io/library/nginx:1.27: %w", line, err)
	}
	it := transfer.Item{Repository: name.String(), Reference: ref}
	if len(words) == 2 {
		it.ToRepository, it.ToTag, err = transfer.ParseImage(words[1])
	} else {
		it.ToRepository, err = sel.Rename(name.Repository)
		it.ToTag = tagOf(ref)
	}
	return it, name, err
}

// tagOf is ref where it is a tag.
func tagOf(ref string) string {
	if registry.IsDigest(ref) {
		return ""
	}
	return ref
}

// newClient makes a client with docker's credentials.
func newClient(c *config.Seeder, regs []upstream.Registry) (*upstream.Client, error) {
	if c.DockerConfig != "" {
		if err := os.Setenv("DOCKER_CONFIG", c.DockerConfig); err != nil {
			return nil, err
		}
	}
	return upstream.New(regs, upstream.Options{MaxConcurrent: c.MaxConcurrent, UserAgent: userAgent()})
}

func userAgent() string { return "samara-seeder/" + Version() }

func (i *importer) selection() (*transfer.Selection, error) {
	sel, err := transfer.NewSelection(i.include, i.exclude, i.renames)
	if err != nil {
		return nil, &usageError{err}
	}
	return sel, nil
}

// run chooses and renames images of a source, and moves them.
func (i *importer) run(cmd *cobra.Command, src transfer.Source, images [][2]string, r *transfer.Report, after func(*transfer.Copier, []transfer.Item) error) (*transfer.Report, error) {
	sel, err := i.selection()
	if err != nil {
		return r, err
	}
	var items []transfer.Item
	for _, im := range images {
		repo, ref := im[0], im[1]
		_, bare := transfer.Host(repo)
		if !sel.Chosen(bare, ref) {
			continue
		}
		it := transfer.Item{Repository: repo, Reference: ref, ToTag: tagOf(ref)}
		if it.ToRepository, err = sel.Rename(bare); err != nil {
			r.Add(it.String(), err.Error())
			continue
		}
		items = append(items, it)
	}
	return r, i.move(cmd, src, items, r, after)
}

// move moves what was chosen to where it is wanted.
func (i *importer) move(cmd *cobra.Command, src transfer.Source, items []transfer.Item, r *transfer.Report, after func(*transfer.Copier, []transfer.Item) error) error {
	if i.dryRun {
		r.DryRun = true
		for _, it := range items {
			to := it.ToRepository + "@" + it.Reference
			if it.ToTag != "" {
				to = it.ToRepository + ":" + it.ToTag
			}
			r.DryRunImages = append(r.DryRunImages, it.String()+" -> "+to)
		}
		return nil
	}
	chosen, err := platforms(i.platforms)
	if err != nil {
		return err
	}
	target, done, err := i.target(cmd)
	if err != nil {
		return err
	}
	c := &transfer.Copier{Source: src, Target: target, Progress: &transfer.Progress{}, Report: r, Platforms: chosen, Referrers: i.referrers, Jobs: i.jobs}
	err = i.watch(cmd, moving(c.Progress), func(ctx context.Context) error { return c.Run(ctx, items) })
	if err == nil && after != nil {
		err = after(c, items)
	}
	return errors.Join(err, done())
}

// target opens where images go.
func (i *importer) target(cmd *cobra.Command) (transfer.Target, func() error, error) {
	if i.to != "" {
		r, err := transfer.NewRemote(i.to, userAgent())
		if err != nil {
			return nil, nil, &usageError{fmt.Errorf("--to: %w", err)} // the URL may hold a password
		}
		return r, func() error { r.Close(); return nil }, nil
	}
	if len(i.c.LocalRepositories) == 0 {
		return nil, nil, &config.Error{Problems: []config.Problem{{Where: "--local", What: "no repositories are local, so nothing can be taken in",
			Fix: "give --local as to `seeder serve`, or its --config file, or push to a running registry with --to URL"}}}
	}
	d, err := i.direct(cmd, "push to it with --to http://HOST:PORT (its --listen)")
	if err != nil {
		return nil, nil, err
	}
	return d, d.Close, nil
}
