package seed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/prewarm"
	"github.com/samara-p2p/samara/pkg/auth"
	"github.com/samara-p2p/samara/pkg/registry"
)

// adminGrace is how long requests at the socket may take to finish at the end;
// those that wait for a job end with it.
const adminGrace = 5 * time.Second

// adminAPI is the admin API: at a socket of this host, for whom its permissions
// let in, and on the registry's listener behind the guard.
type adminAPI struct {
	server *admin.Server
	socket *http.Server // nil: none
	path   string
	done   chan struct{}
	log    *zap.Logger
}

// openAdmin makes the API and listens at the socket.
func openAdmin(ctx context.Context, d *daemon.Daemon, c config.Seeder, a *viewer, hosts *prewarm.Manager, g *gate) (*adminAPI, error) {
	o := admin.Options{Cache: a, View: a, Scrub: a, Caller: caller, Log: d.Log.Named("admin")}
	if a.local != nil {
		o.Local = localNames{a.local, d}
	}
	o.Hosts = hosts
	if g.audit != nil {
		o.Audit = g.audit.Record
	}
	api := &adminAPI{server: admin.New(o), path: c.AdminSocketPath(), done: make(chan struct{}), log: o.Log}
	if api.path == "" {
		return api, nil
	}
	ln, err := listenSocket(ctx, api.path)
	if err != nil {
		api.server.Close()
		return nil, fmt.Errorf("--admin-socket %s: %w", api.path, err)
	}
	api.socket = &http.Server{
		Handler: api.server, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: 2 * time.Minute, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: zap.NewStdLog(o.Log), ConnContext: withPeer,
	}
	go func() {
		defer close(api.done)
		if err := api.socket.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			api.log.Error("the admin socket ended", zap.Error(err))
		}
	}()
	return api, nil
}

// listenSocket listens where nobody does. The socket is its owner's alone.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	// One that was left by a process that was killed is in the way.
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != fs.ModeSocket {
			return nil, errors.New("there is something else than a socket")
		}
		if c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path); err == nil {
			return nil, errors.Join(errors.New("another process listens there"), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

func (a *adminAPI) close() {
	a.server.Close()
	if a.socket == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
	defer cancel()
	if err := a.socket.Shutdown(ctx); err != nil {
		a.log.Warn("requests at the admin socket were cut off", zap.Error(errors.Join(err, a.socket.Close())))
	}
	<-a.done
}

type peerKey struct{}

// withPeer notes who is at the other end of the socket.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, peerUser(c))
}

// caller is who sent a request of the admin API.
func caller(r *http.Request) admin.Caller {
	if user, ok := r.Context().Value(peerKey{}).(string); ok {
		return admin.Caller{User: user, Auth: "socket", Admin: true}
	}
	c := admin.Caller{Admin: auth.Administers(r.Context()), Page: auth.BySession(r.Context())}
	if id, ok := auth.FromContext(r.Context()); ok {
		c.User, c.Auth = id.User, string(id.Method)
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.Client = from.Addr().Unmap().String()
	}
	return c
}

// isAdmin tells whether a path is one of the admin API's.
func isAdmin(path string) bool {
	rest, ok := strings.CutPrefix(path, admin.Prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// localNames takes names of local repositories as clients write them.
type localNames struct {
	*local.Registry
	d *daemon.Daemon
}

func (l localNames) name(repository string) string {
	if n, err := named(l.d, repository); err == nil && l.d.Resolver.IsLocal(n) {
		return n.Repository
	}
	return repository // it is found nowhere
}

// Trash implements admin.Local.
func (l localNames) Trash(repository string) []local.TrashEntry {
	if repository != "" {
		repository = l.name(repository)
	}
	return l.Registry.Trash(repository)
}

// Restore implements admin.Local.
func (l localNames) Restore(ctx context.Context, repository, reference string) (local.Restored, error) {
	if !registry.IsDigest(reference) && !registry.ValidTag(reference) {
		return local.Restored{}, &admin.Error{Status: http.StatusBadRequest, Message: "reference: want a tag or a digest"}
	}
	return l.Registry.Restore(ctx, l.name(repository), reference)
}

// EmptyTrash implements admin.Local.
func (l localNames) EmptyTrash(ctx context.Context, repository string) (local.Freed, error) {
	if repository != "" {
		repository = l.name(repository)
	}
	return l.Registry.EmptyTrash(ctx, repository)
}
