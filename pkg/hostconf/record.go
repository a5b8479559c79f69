package hostconf

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// edit puts New in the place of Old at Offset of a file's text.
type edit struct {
	Offset int    `json:"offset"`
	Old    string `json:"old,omitempty"`
	New    string `json:"new"`
	// Mark is in New, and in no text without our part.
	Mark string `json:"mark"`
}

// applyEdits makes all edits, whose offsets are those of base and rise.
func applyEdits(base []byte, edits []edit) []byte {
	var out []byte
	at := 0
	for _, e := range edits {
		out = append(append(out, base[at:e.Offset]...), e.New...)
		at = e.Offset + len(e.Old)
	}
	return append(out, base[at:]...)
}

// record is what a file was, and what was done to it.
type record struct {
	Existed bool   `json:"existed"`
	Base    []byte `json:"base,omitempty"` // as JSON has bytes: base64
	SHA256  string `json:"sha256"`         // of what was written
	Edits   []edit `json:"edits"`
}

// fileState is a file that was changed. It has two records while a Commit that
// changes what an earlier one wrote is under way, the newer one last.
type fileState struct {
	Path    string   `json:"path"`   // as its runtime names it
	Target  string   `json:"target"` // where symlinks led
	Records []record `json:"records"`
}

// state is what undo needs to know, and what the settings were.
type state struct {
	Version  int         `json:"version"`
	Settings Settings    `json:"settings"`
	Dirs     []string    `json:"dirs,omitempty"` // that were made, the upper ones first
	Files    []fileState `json:"files"`
}

const stateVersion = 1

func (s *state) file(target string) *fileState {
	if s == nil {
		return nil
	}
	for i := range s.Files {
		if s.Files[i].Target == target {
			return &s.Files[i]
		}
	}
	return nil
}

func (s *state) made(dir string) bool { return s != nil && slices.Contains(s.Dirs, dir) }

// while is what undo has to know from the first step of a Commit that leads from
// s to next until its last.
func (s *state) while(next *state) *state {
	if s == nil {
		return next
	}
	both := &state{Version: stateVersion, Settings: next.Settings, Dirs: slices.Clone(s.Dirs)}
	for _, d := range next.Dirs {
		if !slices.Contains(both.Dirs, d) {
			both.Dirs = append(both.Dirs, d)
		}
	}
	for _, f := range s.Files {
		f.Records = slices.Clone(f.Records)
		if n := next.file(f.Target); n != nil {
			f.Records = append(f.Records, n.Records...)
		}
		both.Files = append(both.Files, f)
	}
	for _, f := range next.Files {
		if s.file(f.Target) == nil {
			both.Files = append(both.Files, f)
		}
	}
	return both
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// errOurPart says that somebody has edited the lines that are ours.
var errOurPart = errors.New("what peerd setup wrote there was edited since: remove it by hand and try again")

// without is a file's text as it would be had we never changed it.
func (f *fileState) without(current []byte, exists bool) ([]byte, bool, error) {
	if f == nil || !exists {
		return current, exists, nil
	}
	for _, r := range slices.Backward(f.Records) {
		if r.SHA256 == sum(current) {
			return r.Base, r.Existed, nil
		}
	}
	for _, r := range f.Records {
		if r.Existed && bytes.Equal(r.Base, current) {
			return current, true, nil
		}
	}
	var err error
	for _, r := range slices.Backward(f.Records) {
		var left []byte
		if left, err = r.takeOut(current, filepath.Ext(f.Target) == ".json"); err == nil {
			return left, r.Existed || len(bytes.TrimSpace(left)) > 0, nil
		}
	}
	return nil, false, fmt.Errorf("%s: %w", f.Path, err)
}

// takeOut removes our edits from a text that others have edited, too.
func (r *record) takeOut(current []byte, isJSON bool) ([]byte, error) {
	after := applyEdits(r.Base, r.Edits)
	var back []edit // those that lead from current to the text without our part
	shift := 0
	for i, e := range r.Edits {
		at, length, ok := find(current, e, after, e.Offset+shift)
		shift += len(e.New) - len(e.Old)
		switch {
		case ok:
			old := e.Old
			if i == len(r.Edits)-1 && e.Offset == len(r.Base) && e.New[0] == '\n' && at+length < len(current) {
				old = "\n" // the last line had no end: now a line of others follows
			}
			back = append(back, edit{Offset: at, Old: string(current[at : at+length]), New: old})
		case !bytes.Contains(current, []byte(e.Mark)):
			// somebody has removed it
		case isJSON:
			return removeJSONMirror(current, e.Mark)
		default:
			return nil, errOurPart
		}
	}
	slices.SortFunc(back, func(a, b edit) int { return a.Offset - b.Offset })
	for i := 1; i < len(back); i++ {
		if back[i-1].Offset+len(back[i-1].Old) > back[i].Offset {
			return nil, errOurPart
		}
	}
	return applyEdits(current, back), nil
}

// find is where the edit's new text is in current. Where it is more than once,
// it is where the text around is most like what is around it at offset at of
// after, what we wrote. Where somebody has edited between our marks, it is what
// is between them.
func find(current []byte, e edit, after []byte, at int) (offset, length int, ok bool) {
	best, twice := -1, false
	for i := 0; ; {
		n := bytes.Index(current[i:], []byte(e.New))
		if n < 0 {
			break
		}
		pos := i + n
		score := commonSuffix(current[:pos], after[:at]) + commonPrefix(current[pos+len(e.New):], after[at+len(e.New):])
		if score > best {
			best, offset, twice = score, pos, false
		} else if score == best {
			twice = true
		}
		i = pos + 1
	}
	if best >= 0 {
		return offset, len(e.New), !twice
	}
	begin, end := []byte(markBegin), []byte(markEnd)
	if strings.Count(e.New, markBegin) != 1 || bytes.Count(current, begin) != 1 || bytes.Count(current, end) != 1 {
		return 0, 0, false
	}
	from, to := bytes.Index(current, begin), bytes.Index(current, end)+len(end)
	if to < len(current) && current[to] == '\n' {
		to++
	}
	return from, to - from, from < to
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func commonSuffix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return n
}

// stateFile is where the state is kept.
func (h *Host) stateFile() string { return filepath.Join(h.stateDir, "state.json") }

// load reads the state; nil if there is none.
func (h *Host) load() (*state, error) {
	b, exists, err := h.root.read(h.stateFile())
	if err != nil || !exists {
		return nil, err
	}
	s, err := parseState(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.stateFile(), err)
	}
	return s, nil
}

// parseState reads a state file; one that was damaged is refused, since edits
// are offsets into texts.
func parseState(b []byte) (*state, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%w; it says what files were before: restore it from a backup, or put them right by hand and remove it", err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("has version %d, this peerd knows %d: use the peerd that wrote it", s.Version, stateVersion)
	}
	for _, f := range s.Files {
		for _, r := range f.Records {
			at := 0
			for _, e := range r.Edits {
				if e.Offset < at || e.Offset+len(e.Old) > len(r.Base) || e.New == "" || e.Mark == "" {
					return nil, fmt.Errorf("an edit of %s is damaged: put that file right by hand and remove this one", f.Path)
				}
				at = e.Offset + len(e.Old)
			}
		}
	}
	return &s, nil
}

// save writes the state, or removes it when there is nothing to undo. It is
// for its owner only: files of runtimes may hold credentials.
func (h *Host) save(s *state) error {
	target, err := h.root.resolve(h.stateFile())
	if err != nil {
		return err
	}
	if s == nil || len(s.Files) == 0 && len(s.Dirs) == 0 {
		return h.root.remove(target)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return h.root.write(target, append(b, '\n'), 0o600)
}

// sameState tells whether two states say the same.
func sameState(a, b *state) bool {
	x, errx := json.Marshal(a)
	y, erry := json.Marshal(b)
	return errx == nil && erry == nil && bytes.Equal(x, y)
}

// lock keeps other setups of this host out until unlock is called.
func (h *Host) lock() (unlock func(), err error) {
	dir, err := h.root.resolve(h.stateDir)
	if err != nil {
		return nil, err
	}
	// Only the last one is secret: daemons of other users have their data beside it.
	err = os.MkdirAll(filepath.Dir(h.root.at(dir)), 0o755)
	if err == nil {
		err = os.MkdirAll(h.root.at(dir), 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.stateDir, cause(err))
	}
	f, err := os.Open(h.root.at(dir))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.stateDir, cause(err))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // only read
		return nil, fmt.Errorf("%s: another setup of this host is under way: %w", h.stateDir, err)
	}
	return func() { _ = f.Close() }, nil
}
