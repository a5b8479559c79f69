package mirror

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/registry"
)

// greetTimeout is how long a hello waits for the upstream: contract 1 wants it
// answered in no time, and only those who chose otherwise pay for it.
const greetTimeout = time.Second

// greetDocker has dockerd (graph store) show tokens: it heeds a challenge to its
// hello and none later. It is the default upstream's own, of this moment: while
// there is none, docker is not sent to a token server that may be away, too.
func greetDocker(s *seeders, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := s.resolver.Default()
		if strings.TrimSuffix(r.URL.Path, "/") != "/v2" || !strings.HasPrefix(r.UserAgent(), "docker/") ||
			r.Header.Get("Authorization") != "" || s.policy(up) != config.PrivateByClient {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), greetTimeout)
		defer cancel()
		text, err := s.itself(up).Greeting(ctx, up)
		if err != nil || text == "" {
			next.ServeHTTP(w, r)
			return
		}
		registry.WriteError(w, r, &registry.Error{Status: http.StatusUnauthorized, Code: registry.CodeUnauthorized,
			Message: "a token may be shown here", Challenge: text})
	})
}
