package obs

import (
	"testing"

	"go.uber.org/goleak"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}
