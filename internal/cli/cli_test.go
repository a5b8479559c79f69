package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/internal/config"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// execute runs a command line and returns its exit status and output.
func execute(ctx context.Context, root *cobra.Command, args ...string) (int, string, string) {
	var out, errs bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errs)
	code := Execute(ctx, root, args)
	return code, out.String(), errs.String()
}

func noServe(context.Context, config.Peerd) error { return errors.New("should not run") }

func TestExitStatus(t *testing.T) {
	data := t.TempDir()
	fine := []string{"serve", "--open-swarm", "--data", data}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name string
		args []string
		ctx  context.Context
		run  error
		code int
		errs string // exact; "*" at the end stands for anything
	}{
		{name: "done", args: fine},
		{name: "failed", args: fine, run: errors.New("store: disk is on fire"), code: 1, errs: "peerd: store: disk is on fire\n"},
		{name: "stopped by a signal", args: fine, ctx: gone, run: context.Canceled},
		{name: "a role that finds the configuration wrong", args: fine, run: &config.Error{Problems: []config.Problem{{Where: "x", What: "y"}}}, code: 2, errs: "peerd: configuration: x: y\n"},
		{name: "no key", args: []string{"serve", "--data", data}, code: 2, errs: "peerd: configuration: --swarm-key: not given, and neither is --open-swarm; copy*"},
		{name: "bad value", args: append(fine, "--quota", "lots"), code: 2, errs: "peerd: configuration: --quota: byte size \"lots\"*"},
		{name: "unknown flag", args: append(fine, "--lisen", "x"), code: 2, errs: "peerd: unknown flag: --lisen\n"},
		{name: "unknown command", args: []string{"server"}, code: 2, errs: "peerd: unknown command \"server\" for \"peerd\"*"},
		{name: "argument", args: append(fine, "now"), code: 2, errs: "peerd: unknown command \"now\"*"},
		{name: "version", args: []string{"version"}},
		{name: "help", args: []string{"--help"}},
		{name: "nothing", args: nil},
		{name: "config alone", args: []string{"config"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.ctx == nil {
				c.ctx = context.Background()
			}
			code, _, errs := execute(c.ctx, Peerd(func(context.Context, config.Peerd) error { return c.run }), c.args...)
			prefix, open := strings.CutSuffix(c.errs, "*")
			if code != c.code || errs != prefix && !(open && strings.HasPrefix(errs, prefix)) {
				t.Errorf("status %d, stderr %q; want %d, %q", code, errs, c.code, c.errs)
			}
			if strings.Count(errs, "peerd: ") > 1 {
				t.Errorf("told more than once: %q", errs)
			}
		})
	}
}

func TestServeGetsConfiguration(t *testing.T) {
	data := t.TempDir()
	t.Setenv("SEEDER_ZONE", "rack-1")
	var got config.Seeder
	code, _, errs := execute(context.Background(), Seeder(func(_ context.Context, c config.Seeder) error { got = c; return nil }),
		"serve", "--data", data, "--listen", "10.0.0.1:5000", "--p2p-listen", "/ip4/10.0.0.1/tcp/4001", "--pieces-listen", "10.0.0.1:4002", "--admin-listen", "10.0.0.1:9095",
		"--upstream", "lab=http://10.0.0.2:5000", "--default-upstream", "lab", "--open-swarm", "--tag-ttl", "5s")
	if code != 0 {
		t.Fatal(errs)
	}
	if got.Data != data || got.Zone != "rack-1" || got.Default() != "lab" || len(got.Upstreams) != 1 || !reflect.DeepEqual(got.Upstreams[0], config.Upstream{Name: "lab", URL: "http://10.0.0.2:5000"}) ||
		!got.OpenSwarm || got.TagTTL != 5*time.Second || got.Listen != "10.0.0.1:5000" {
		t.Errorf("got %+v", got)
	}
}

func TestConfigCommands(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "peerd.yaml")
	if err := os.WriteFile(file, []byte("zone: a\nopen-swarm: true\ndata: "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := execute(context.Background(), Peerd(noServe), "config", "print", "--config", file, "--quota", "1GiB")
	if code != 0 || errs != "" || !strings.Contains(out, "zone: a # file "+file+":1\n") || !strings.Contains(out, "quota: 1GiB # flag --quota\n") {
		t.Errorf("print: %d %q\n%s", code, errs, out)
	}
	code, out, errs = execute(context.Background(), Peerd(noServe), "config", "check", "--config", file, "--mdns")
	if code != 0 || out != "configuration is fine\n" || errs != "" {
		t.Errorf("check: %d %q %q", code, out, errs)
	}
	code, out, errs = execute(context.Background(), Peerd(noServe), "config", "check", "--config", file, "--zone", "a b")
	if code != 2 || out != "" || !strings.Contains(errs, "peerd: warning: --seeder: no seeder") || !strings.Contains(errs, "peerd: configuration: --zone: \"a b\" is not a zone") {
		t.Errorf("check: %d %q %q", code, out, errs)
	}
	if err := os.WriteFile(file, []byte("zoen: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sub := range [][]string{{"config", "print"}, {"config", "check"}, {"serve"}} {
		code, _, errs = execute(context.Background(), Peerd(noServe), append(sub, "--config", file)...)
		if code != 2 || errs != "peerd: configuration: "+file+":1: unknown key \"zoen\"; did you mean \"zone\"?\n" {
			t.Errorf("%v: %d %q", sub, code, errs)
		}
	}
}

func TestVersion(t *testing.T) {
	_, out, _ := execute(context.Background(), Seeder(nil), "version")
	if !strings.HasPrefix(out, "seeder "+Version()+" (go") {
		t.Errorf("got %q", out)
	}
	for want, info := range map[string]*debug.BuildInfo{
		"v1.2.3":                   {Main: debug.Module{Version: "v1.2.3"}},
		"devel":                    {Main: debug.Module{Version: "(devel)"}},
		"devel-0123456789ab-dirty": {Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}}},
		"devel-0123":               {Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123"}, {Key: "vcs.modified", Value: "false"}}},
	} {
		if got := versionOf(info); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
