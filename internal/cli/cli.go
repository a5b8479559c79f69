package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/samara-p2p/samara/internal/config"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitPart   = 3
)

// Seeder is the command line of the seeder. run is what `serve` does: it gets
// a checked configuration and a context that ends at SIGINT or SIGTERM, and
// returns once everything it started has ended.
func Seeder(run func(ctx context.Context, c config.Seeder) error) *cobra.Command {
	root := newRoot("seeder", "An OCI registry cache that gives images to a swarm of peers",
		`seeder is a registry and pull-through cache. It fetches each blob from its
upstream once and hands pieces of it to the peerd on every host.`)
	serve := newServe("seeder", "Run the seeder", func() (*config.Loader, func(context.Context) error) {
		c, l := config.NewSeeder()
		return l, func(ctx context.Context) error { return run(ctx, *c) }
	})
	newLoader := func() *config.Loader { _, l := config.NewSeeder(); return l }
	root.AddCommand(serve, newStatus("seeder"), newLogLevel("seeder"), newConfig("seeder", newLoader), newAudit(), newImport(), newExport(),
		newBackup(), newRestore(), newVerify(), newVersion("seeder"))
	root.AddCommand(operate()...)
	return root
}

// Peerd is the command line of peerd; see Seeder.
func Peerd(run func(ctx context.Context, c config.Peerd) error) *cobra.Command {
	root := newRoot("peerd", "A registry mirror on localhost that shares images with its peers",
		`peerd runs on every host. Container clients use it as a registry mirror on
localhost; it takes blobs in pieces from its peers, then from the seeder, then
from the upstream.`)
	serve := newServe("peerd", "Run the mirror", func() (*config.Loader, func(context.Context) error) {
		c, l := config.NewPeerd()
		return l, func(ctx context.Context) error { return run(ctx, *c) }
	})
	newLoader := func() *config.Loader { _, l := config.NewPeerd(); return l }
	root.AddCommand(serve, newStatus("peerd"), newLogLevel("peerd"), newConfig("peerd", newLoader), newJoin(), newSetup(), newDoctor(), newVersion("peerd"))
	return root
}

// Main runs the command with the process's arguments and gives its exit
// status.
func Main(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal kills
	return Execute(ctx, root, os.Args[1:])
}

// Execute is Main without signals, for tests.
func Execute(ctx context.Context, root *cobra.Command, args []string) int {
	if args == nil {
		args = []string{} // nil would make cobra read os.Args
	}
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitOK // stopped as asked
	}
	fmt.Fprintf(root.ErrOrStderr(), "%s: %v\n", root.Name(), err)
	if errors.As(err, new(*leftOut)) || errors.As(err, new(*damaged)) {
		return exitPart
	}
	if own := (*withStatus)(nil); errors.As(err, &own) {
		return own.status
	}
	if errors.As(err, new(*usageError)) {
		return exitUsage
	}
	var failed *runError
	var bad *config.Error
	if errors.As(err, &failed) && !errors.As(err, &bad) {
		return exitFailed
	}
	return exitUsage
}

// runError marks errors of commands that began to run; all others are cobra's
// about usage.
type runError struct{ err error }

func (e *runError) Error() string { return e.err.Error() }
func (e *runError) Unwrap() error { return e.err }

// withStatus is an error of a command that has exit statuses of its own.
type withStatus struct {
	error
	status int
}

// usageError marks errors about arguments that cobra cannot know of.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// runs wraps what a command does.
func runs(f func(cmd *cobra.Command) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := f(cmd); err != nil {
			return &runError{err}
		}
		return nil
	}
}

func newRoot(name, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: long + `

Exit status: 0 done, 1 failed while running, 2 wrong usage or configuration,
3 done but for what the output names.`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}

func newServe(daemon, short string, prepare func() (*config.Loader, func(context.Context) error)) *cobra.Command {
	loader, run := prepare()
	cmd := &cobra.Command{Use: "serve", Short: short, Args: cobra.NoArgs,
		Long: short + ` until SIGINT or SIGTERM. SIGHUP starts the program anew, as it is on the disk,
and hands over to it: no request fails (docs/operations.md, Upgrade). Every flag is
also a key of the --config file and an environment variable; "` + daemon + ` config print"
shows what is in effect.`}
	loader.Bind(cmd.Flags())
	cmd.RunE = runs(func(cmd *cobra.Command) error {
		if err := loader.Load(os.LookupEnv); err != nil {
			return err
		}
		if err := loader.Check(); err != nil {
			return err
		}
		return run(cmd.Context())
	})
	return cmd
}

func newVersion(daemon string) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), longVersion(daemon))
			return err
		})}
}

// newConfig has `print` and `check`, which take the flags of serve.
func newConfig(daemon string, newLoader func() *config.Loader) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show or check the configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	printer, checker := newLoader(), newLoader()
	show := &cobra.Command{Use: "print", Short: "Print the effective configuration as YAML, with the source of each value", Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command) error {
			if err := printer.Load(os.LookupEnv); err != nil {
				return err
			}
			return printer.Print(cmd.OutOrStdout())
		})}
	printer.Bind(show.Flags())
	check := &cobra.Command{Use: "check", Short: "Say what is wrong with the configuration; exit status 2 if anything is", Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command) error {
			if err := checker.Load(os.LookupEnv); err != nil {
				return err
			}
			for _, w := range checker.Warnings() {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: warning: %s\n", daemon, w)
			}
			if err := checker.Check(); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "configuration is fine")
			return err
		})}
	checker.Bind(check.Flags())
	cmd.AddCommand(show, check)
	return cmd
}
