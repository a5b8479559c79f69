package store_test

import (
	"testing"

	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/store/storetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	crashChild() // does not return in a child of the crash test
	goleak.VerifyTestMain(m)
}

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T, dir string, quota int64) *store.Store {
		s, err := store.Open(dir, store.Options{Quota: quota})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}
