package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/samara-p2p/samara/internal/status"
)

const (
	// maxStatus bounds the document that is read.
	maxStatus     = 64 << 20
	statusTimeout = 10 * time.Second
)

type statusOptions struct {
	daemon   string
	admin    string
	json     bool
	watch    bool
	interval time.Duration
}

func newStatus(daemon string) *cobra.Command {
	o := &statusOptions{daemon: daemon}
	cmd := &cobra.Command{Use: "status", Short: "Show what a running " + daemon + " does", Args: cobra.NoArgs,
		Long: "Ask the admin server of a running " + daemon + " and show peers, blobs under way, bytes by source and upstreams."}
	fs := cmd.Flags()
	o.bindAdmin(fs)
	fs.BoolVar(&o.json, "json", false, "print the JSON document as it is")
	fs.BoolVarP(&o.watch, "watch", "w", false, "again and again, until interrupted")
	fs.DurationVar(&o.interval, "interval", time.Second, "time between two looks with --watch")
	cmd.RunE = runs(func(cmd *cobra.Command) error {
		u, err := o.url(os.Getenv)
		if err != nil {
			return err
		}
		if o.watch {
			return o.loop(cmd.Context(), u, cmd.OutOrStdout())
		}
		body, err := o.show(cmd.Context(), u)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(body)
		return err
	})
	return cmd
}

// bindAdmin adds the flag that says where the admin server is.
func (o *statusOptions) bindAdmin(fs *pflag.FlagSet) {
	fs.StringVar(&o.admin, "admin-listen", "", "HOST:PORT or URL of the admin server ($"+strings.ToUpper(o.daemon)+"_ADMIN_LISTEN, else 127.0.0.1:9095)")
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "admin" {
			name = "admin-listen"
		}
		return pflag.NormalizedName(name)
	})
}

// url of the status document.
func (o *statusOptions) url(getenv func(string) string) (string, error) {
	base, err := o.base(getenv)
	return base + "/v1/status", err
}

// base is the admin server's URL.
func (o *statusOptions) base(getenv func(string) string) (string, error) {
	a := o.admin
	if a == "" {
		a = getenv(strings.ToUpper(o.daemon) + "_ADMIN_LISTEN")
	}
	if a == "" {
		a = "127.0.0.1:9095"
	}
	return adminURL(a)
}

// loop shows the status until ctx ends. A daemon that is away for a moment is
// shown as such.
func (o *statusOptions) loop(ctx context.Context, url string, w io.Writer) error {
	t := time.NewTicker(max(o.interval, 100*time.Millisecond))
	defer t.Stop()
	for {
		body, err := o.show(ctx, url)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			body = []byte(o.daemon + ": " + err.Error() + "\n")
		}
		if isTerminal(w) && !o.json {
			body = append([]byte("\x1b[H\x1b[2J"), body...)
		}
		if _, err := w.Write(body); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// show fetches the document once and renders it as asked.
func (o *statusOptions) show(ctx context.Context, url string) ([]byte, error) {
	body, err := fetchStatus(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("%w; is `%s serve` running, with this admin address? give --admin-listen HOST:PORT", err, o.daemon)
	}
	if o.json {
		return body, nil
	}
	var s status.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fmt.Errorf("%s: not a status document: %w", url, err)
	}
	var out bytes.Buffer
	Render(&out, &s)
	return out.Bytes(), nil
}

// adminClient asks without a proxy: the admin server is near.
func adminClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

func fetchStatus(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := adminClient().Do(req)
	if err != nil {
		var ue interface{ Unwrap() error }
		if errors.As(err, &ue) {
			err = ue.Unwrap()
		}
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	defer resp.Body.Close() // read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: answered %s", url, resp.Status)
	}
	return body, nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
