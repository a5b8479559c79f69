package cli

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/config"
)

// online is what commands share that tell a running seeder what to do.
type online struct {
	c      *config.Seeder
	loader *config.Loader
	server string
	ca     string
	json   bool
}

// command makes one of these commands.
func (o *online) command(use, short, long string, args cobra.PositionalArgs, run func(cmd *cobra.Command, c *admin.Client, args []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: args, Long: long + `

The seeder is the one that runs on this host with the same --data, --config or
environment, reached at its socket, or with --server any other, where a rule has
to give you the admin action. docs/admin-api.md has more.`}
	o.c, o.loader = config.NewSeeder()
	flags := cmd.Flags()
	o.loader.Bind(flags)
	flags.VisitAll(func(f *pflag.Flag) { f.Hidden = f.Name != "config" && f.Name != "data" && f.Name != "admin-socket" })
	flags.StringVar(&o.server, "server", "", "URL of a seeder's registry API, like https://seeder.example.com:5000; credentials are those of docker login")
	flags.StringVar(&o.ca, "ca", "", "PEM file of authorities for --server, besides the system's")
	flags.BoolVar(&o.json, "json", false, "print the answer as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return runs(func(cmd *cobra.Command) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			return o.explain(c, run(cmd, c, args))
		})(cmd, nil)
	}
	return cmd
}

func (o *online) client() (*admin.Client, error) {
	if o.server != "" {
		return o.remote()
	}
	if err := o.loader.Load(os.LookupEnv); err != nil {
		return nil, err
	}
	path := o.c.AdminSocketPath()
	if path == "" {
		return nil, errors.New("this seeder has no socket (--admin-socket): give --server URL")
	}
	return admin.AtSocket(path), nil
}

// remote logs in as docker, crane and others do.
func (o *online) remote() (*admin.Client, error) {
	var roots *x509.CertPool
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s has no certificate", o.ca)
		}
	}
	user, password := "", ""
	if u, err := url.Parse(o.server); err == nil && u.Host != "" {
		reg, err := name.NewRegistry(u.Host)
		if err != nil {
			return nil, fmt.Errorf("--server: %w", err)
		}
		a, err := authn.DefaultKeychain.Resolve(reg)
		if err != nil {
			return nil, fmt.Errorf("credentials for %s: %w", u.Host, err)
		}
		c, err := a.Authorization()
		if err != nil {
			return nil, fmt.Errorf("credentials for %s: %w", u.Host, err)
		}
		user, password = c.Username, c.Password
	}
	c, err := admin.AtServer(o.server, user, password, roots)
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	return c, nil
}

// explain says what to do about an error.
func (o *online) explain(c *admin.Client, err error) error {
	var answer *admin.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.As(err, new(*plainError)):
		return err
	case errors.As(err, &answer) && answer.Status == http.StatusUnauthorized:
		return fmt.Errorf("%s: %w; docker login there first", c.Where(), err)
	case errors.As(err, &answer):
		return err
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w; run this as the user that the seeder runs as", c.Where(), err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w; is `seeder serve` running, with this --data? or give --server URL", c.Where(), err)
	}
	return fmt.Errorf("%s: %w", c.Where(), err)
}

// print writes an answer, as JSON or for people.
func (o *online) print(cmd *cobra.Command, v any, people func(w io.Writer)) error {
	w := cmd.OutOrStdout()
	if !o.json {
		people(w)
		return nil
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// job starts a job and waits for its end. An interrupt ends it.
func (o *online) job(cmd *cobra.Command, c *admin.Client, path string, in any) (admin.Job, error) {
	var j admin.Job
	if err := c.Call(cmd.Context(), http.MethodPost, path, in, &j); err != nil {
		return j, err
	}
	w := cmd.ErrOrStderr()
	draw := isTerminal(w)
	var tell func(admin.Job)
	if draw {
		tell = func(j admin.Job) {
			p := j.Now
			fmt.Fprintf(w, "\r\x1b[K%s", clean(fmt.Sprintf("%d of %d, %s of %s  %s", p.Items, p.ItemsTotal, size(p.Bytes), size(p.BytesTotal), p.What)))
		}
	}
	ended, err := c.Wait(cmd.Context(), j.ID, tell)
	if draw {
		fmt.Fprint(w, "\r\x1b[K")
	}
	if cmd.Context().Err() != nil {
		// The one that asked for it is gone, and with it the reason.
		if cerr := c.Call(context.WithoutCancel(cmd.Context()), http.MethodDelete, "/jobs/"+j.ID, nil, &j); cerr != nil {
			return j, fmt.Errorf("job %s goes on: %w", j.ID, cerr)
		}
		return j, context.Cause(cmd.Context())
	}
	return ended, err
}

// plainError says all that there is to say: it has nothing to do with the way to
// the seeder.
type plainError struct{ text string }

func (e *plainError) Error() string { return e.text }

// failed is the error of a job that did.
func failed(j admin.Job) error {
	switch j.State {
	case admin.Failed:
		return &plainError{j.Error}
	case admin.Canceled:
		return &plainError{"job " + j.ID + " was ended by somebody"}
	}
	return nil
}
