package seed

import (
	"fmt"
	"net/http"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// refuseLoops answers questions that this seeder, named self, has put to
// another one: their upstreams go in a circle. What other seeders a question
// has passed goes along with it.
func refuseLoops(next http.Handler, self string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		via := upstream.ParseVia(r.Header)
		if upstream.Loops(via, self) {
			registry.WriteError(w, r, &registry.Error{Status: http.StatusLoopDetected, Code: registry.CodeUnsupported,
				Message: fmt.Sprintf("this question has been here before: it came through %d seeders that have one another as upstream", len(via))})
			return
		}
		next.ServeHTTP(w, r.WithContext(upstream.WithVia(r.Context(), via)))
	})
}
