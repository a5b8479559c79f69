package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

const maxLogLevel = 4 << 10

// newLogLevel shows the level of a running daemon's log, or sets it.
func newLogLevel(daemon string) *cobra.Command {
	o := &statusOptions{daemon: daemon}
	cmd := &cobra.Command{Use: "log-level [debug|info|warn|error]", Short: "Show or set the log level of a running " + daemon, Args: cobra.MaximumNArgs(1),
		ValidArgs: []string{"debug", "info", "warn", "error"},
		Long: `Show the level below which a running ` + daemon + ` logs nothing, or set it, until the process
ends. For good it is the setting log-level.`}
	o.bindAdmin(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return runs(func(cmd *cobra.Command) error {
			base, err := o.base(os.Getenv)
			if err != nil {
				return err
			}
			text, err := logLevel(cmd.Context(), base+"/v1/log-level", strings.Join(args, ""))
			if err != nil {
				return fmt.Errorf("%w; is `%s serve` running, with this admin address? give --admin-listen HOST:PORT", err, daemon)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		})(cmd, nil)
	}
	return cmd
}

// logLevel is the level that the daemon says it has, once level is set; "" sets none.
func logLevel(ctx context.Context, url, level string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	method := http.MethodGet
	if level != "" {
		method = http.MethodPut
	}
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(level))
	if err != nil {
		return "", err
	}
	resp, err := adminClient().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxLogLevel))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, strings.TrimSpace(string(text)))
	}
	var doc struct {
		Level string `json:"level"`
	}
	if err := json.Unmarshal(text, &doc); err != nil || doc.Level == "" {
		return "", fmt.Errorf("%s %s: it answers %.100q, which is no level", method, url, text)
	}
	return doc.Level, nil
}
