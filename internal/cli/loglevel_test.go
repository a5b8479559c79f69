package cli

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/obs"
)

func TestLogLevel(t *testing.T) {
	level := zap.NewAtomicLevel()
	admin := obs.NewAdmin(obs.AdminOptions{Listen: "127.0.0.1:0", Level: &level})
	if err := admin.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Shutdown(context.Background()) }()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 0, "info\n"},
		{[]string{"debug"}, 0, "debug\n"},
		{nil, 0, "debug\n"},
		{[]string{"lots"}, 1, `"lots" is not a level; send debug, info, warn or error`},
		{[]string{"warn", "error"}, 2, "accepts at most 1 arg"},
		{[]string{"--admin-listen", "127.0.0.1:1"}, 1, "is `peerd serve` running, with this admin address?"},
	} {
		code, out, errs := execute(t.Context(), Peerd(noServe), append([]string{"log-level", "--admin-listen", admin.Addr()}, c.args...)...)
		if code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("%v: exit status %d, %s%s", c.args, code, out, errs)
		}
	}
	if level.Level() != zap.DebugLevel {
		t.Errorf("the level is %s", level)
	}
}
