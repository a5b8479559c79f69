package piece

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const testDigest = digest.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

func testList(t testing.TB, pieces int) *List {
	t.Helper()
	g, err := GeometryOf(int64(pieces) * MinSize)
	if err != nil {
		t.Fatal(err)
	}
	return NewList(testDigest, g)
}

// testRun is the run of the pieces [first, end) of a blob of n, whose hashes
// are made of their index and salt.
func testRun(n, first, end int, salt string) Run {
	r := Run{Digest: testDigest, Size: int64(n) * MinSize, First: first}
	for i := first; i < end; i++ {
		r.Hashes = append(r.Hashes, Sum(fmt.Appendf(nil, "%s%d", salt, i)))
	}
	return r
}

func testFinal(n int, salt string) Run {
	r := testRun(n, 0, n, salt)
	r.Final = true
	return r
}

// Each step is "first-end", with "!" for final, "x" for other hashes.
func TestListAdd(t *testing.T) {
	for _, c := range []struct {
		name     string
		steps    string // separated by spaces; ":" and what is fresh, or "conflict"
		known    int
		final    bool
		envelope string // what is passed on, in order
	}{
		{"nothing", "", 0, false, ""},
		{"one run", "2-4:2,3", 2, false, "2-4"},
		{"the same again", "2-4:2,3 2-4:", 2, false, "2-4"},
		{"in order of first", "4-6:4,5 0-2:0,1", 4, false, "0-2 4-6"},
		{"one within another", "0-6:0,1,2,3,4,5 2-4:", 6, false, "0-6"},
		{"one around another", "2-4:2,3 0-6:0,1,4,5", 6, false, "0-6"},
		{"one around several", "1-2:1 3-4:3 5-6:5 0-8:0,2,4,6,7", 8, false, "0-8"},
		{"longer from the same start", "0-2:0,1 0-5:2,3,4", 5, false, "0-5"},
		{"to the same end", "4-8:4,5,6,7 2-8:2,3", 6, false, "2-8"},
		{"the middle is covered", "0-4:0,1,2,3 2-6:4,5 4-8:6,7", 8, false, "0-4 4-8"},
		{"the middle is not quite covered", "0-4:0,1,2,3 2-6:4,5 5-8:6,7", 8, false, "0-4 2-6 5-8"},
		{"growing prefix", "0-1:0 0-2:1 0-3:2 0-8:3,4,5,6,7", 8, false, "0-8"},
		{"complete is not final", "0-8:0,1,2,3,4,5,6,7", 8, false, "0-8"},
		{"conflict leaves all as it was", "0-2:0,1 1-4x:conflict 2-3:2", 3, false, "0-2 2-3"},
		{"final at once", "0-8!:0,1,2,3,4,5,6,7", 8, true, "0-8!"},
		{"final replaces", "0-2:0,1 4-8:4,5,6,7 0-8!:2,3", 8, true, "0-8!"},
		{"final over a complete list", "0-8:0,1,2,3,4,5,6,7 0-8!:", 8, true, "0-8!"},
		{"final overrules", "0-2x:0,1 2-3:2 0-8!:0,1,3,4,5,6,7", 8, true, "0-8!"},
		{"final again", "0-8!:0,1,2,3,4,5,6,7 0-8!:", 8, true, "0-8!"},
		{"finals differ", "0-8!:0,1,2,3,4,5,6,7 0-8x!:conflict", 8, true, "0-8!"},
		{"provisional after final", "0-8!:0,1,2,3,4,5,6,7 0-4:", 8, true, "0-8!"},
		{"contradiction after final", "0-8!:0,1,2,3,4,5,6,7 0-4x:conflict", 8, true, "0-8!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			const n = 8
			l := testList(t, n)
			for _, step := range strings.Fields(c.steps) {
				name, want, _ := strings.Cut(step, ":")
				var first, end int
				if _, err := fmt.Sscanf(name, "%d-%d", &first, &end); err != nil {
					t.Fatal(err)
				}
				salt := ""
				if strings.Contains(name, "x") {
					salt = "x"
				}
				r := testRun(n, first, end, salt)
				r.Final = strings.HasSuffix(name, "!")
				fresh, err := l.Add(r, []byte(name))
				got := strings.ReplaceAll(strings.Trim(fmt.Sprint(fresh), "[]"), " ", ",")
				if errors.Is(err, ErrConflict) {
					got = "conflict"
				} else if err != nil {
					t.Fatal(err)
				} else if slices.ContainsFunc(fresh, func(i int) bool { h, ok := l.Hash(i); return !ok || h != r.Hashes[i-first] }) {
					t.Errorf("%s: a fresh hash is not in the list", name)
				}
				if got != want {
					t.Errorf("%s: fresh %q, want %q", name, got, want)
				}
			}
			if l.Known() != c.known || l.Complete() != (c.known == n) || l.Final() != c.final {
				t.Errorf("known %d, complete %v, final %v; want %d, final %v", l.Known(), l.Complete(), l.Final(), c.known, c.final)
			}
			var envelopes []string
			for _, e := range l.Envelopes() {
				envelopes = append(envelopes, string(e))
			}
			if got := strings.Join(envelopes, " "); got != c.envelope {
				t.Errorf("Envelopes = %q, want %q", got, c.envelope)
			}
		})
	}
}

func TestListRefuses(t *testing.T) {
	l := testList(t, 8)
	other := testRun(8, 0, 8, "")
	other.Digest = digest.FromString("other")
	broken := testRun(8, 0, 8, "")
	broken.First = 1
	for name, r := range map[string]Run{
		"another blob": other,
		"another size": testRun(9, 0, 8, ""),
		"out of range": broken,
		"zero":         {},
	} {
		fresh, err := l.Add(r, []byte("e"))
		if err == nil || errors.Is(err, ErrConflict) || fresh != nil || l.Known() != 0 {
			t.Errorf("%s: Add = %v, %v", name, fresh, err)
		}
	}
	if _, ok := l.Hash(-1); ok {
		t.Error("Hash(-1) is known")
	}
	if _, ok := l.Hash(8); ok {
		t.Error("Hash(8) of 8 is known")
	}
}

func TestListWithoutEnvelope(t *testing.T) {
	l := testList(t, 4)
	if fresh, err := l.Add(testRun(4, 0, 4, ""), nil); err != nil || len(fresh) != 4 {
		t.Errorf("Add = %v, %v", fresh, err)
	}
	if !l.Complete() || l.Envelopes() != nil {
		t.Errorf("complete %v, envelopes %q", l.Complete(), l.Envelopes())
	}
	if _, err := l.Add(testFinal(4, ""), []byte("final")); err != nil || len(l.Envelopes()) != 1 {
		t.Errorf("after the final run: %v, envelopes %q", err, l.Envelopes())
	}
}

func TestListOfEmptyBlob(t *testing.T) {
	l := NewList(testDigest, Geometry{})
	if !l.Complete() || l.Final() {
		t.Errorf("complete %v, final %v", l.Complete(), l.Final())
	}
	fresh, err := l.Add(Run{Digest: testDigest, Final: true}, []byte("e"))
	if err != nil || len(fresh) != 0 || !l.Final() || len(l.Envelopes()) != 1 {
		t.Errorf("Add = %v, %v; final %v, envelopes %q", fresh, err, l.Final(), l.Envelopes())
	}
}
