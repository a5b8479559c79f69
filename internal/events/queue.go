package events

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	segmentSuffix = ".events"
	cursorName    = "delivered"
	maxLine       = 64 << 10 // bytes of an event; its texts are bounded
)

// queue keeps lines on disk, the oldest first, until they are done. Lines are
// numbered from 1. They are in files (segments) that are named after the number
// of their first line; the file "delivered" has the number of the last one that
// is done. What was appended survives the end of the process; a power cut may
// take the last second of it. Safe for concurrent use.
type queue struct {
	dir   string
	limit int64 // bytes; beyond it the oldest segment goes
	roll  int64 // bytes of a segment

	wake chan struct{} // has a token after an append

	mu     sync.Mutex
	segs   []segment  // at least one; the last is written
	w      *os.File   // the last segment
	old    []*os.File // before it, not flushed yet
	cursor *os.File
	next   uint64 // number of the first line that is not done
	offset int64  // where it begins in its segment, segs[0]
	dirty  bool
}

type segment struct {
	first uint64 // number of its first line
	lines uint64
	bytes int64
}

func (s segment) end() uint64 { return s.first + s.lines }

// openQueue goes on where an earlier process stopped. A last line that was not
// written whole is removed: nobody was told that it was there.
func openQueue(dir string, limit int64) (*queue, error) {
	q := &queue{dir: dir, limit: limit, roll: min(4<<20, limit/16), wake: make(chan struct{}, 1)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := q.load(); err != nil {
		return nil, err
	}
	var err error
	if q.cursor, err = os.OpenFile(filepath.Join(dir, cursorName), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err = q.seek(); err == nil {
		err = q.openLast()
	}
	if err != nil {
		q.cursor.Close()
		return nil, err
	}
	return q, nil
}

// load reads what segments there are.
func (q *queue) load() error {
	entries, err := os.ReadDir(q.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		number, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		first, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || first == 0 {
			continue
		}
		s, err := q.scan(first)
		if err != nil {
			return err
		}
		q.segs = append(q.segs, s)
	}
	slices.SortFunc(q.segs, func(a, b segment) int { return int(int64(a.first - b.first)) })
	return nil
}

// scan counts the lines of a segment and cuts off what is no whole line.
func (q *queue) scan(first uint64) (segment, error) {
	s := segment{first: first}
	f, err := os.OpenFile(q.path(first), os.O_RDWR, 0)
	if err != nil {
		return s, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case err == nil:
			s.lines++
			s.bytes += int64(len(line))
		case errors.Is(err, bufio.ErrBufferFull):
			return s, fmt.Errorf("%s is no file of events", f.Name())
		case errors.Is(err, io.EOF):
			if len(line) == 0 {
				return s, nil
			}
			return s, f.Truncate(s.bytes)
		default:
			return s, err
		}
	}
}

// seek finds the first line that is not done. A cursor that cannot be read is
// one at the beginning: lines are delivered again rather than never.
func (q *queue) seek() error {
	text := make([]byte, 32)
	n, err := q.cursor.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	done, err := strconv.ParseUint(string(bytes.TrimSpace(text[:n])), 10, 64)
	if err != nil {
		done = 0
	}
	q.next = done + 1
	if len(q.segs) == 0 {
		q.segs = []segment{{first: q.next}}
	}
	q.next = min(max(q.next, q.segs[0].first), q.segs[len(q.segs)-1].end())
	if err := q.forget(); err != nil {
		return err
	}
	q.offset, err = q.find(q.segs[0], q.next)
	return err
}

// find is where a line begins in its segment.
func (q *queue) find(s segment, number uint64) (int64, error) {
	if number == s.first {
		return 0, nil
	}
	f, err := os.Open(q.path(s.first))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	var at int64
	for ; number > s.first; number-- {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		at += int64(len(line))
	}
	return at, nil
}

func (q *queue) path(first uint64) string {
	return filepath.Join(q.dir, fmt.Sprintf("%020d%s", first, segmentSuffix))
}

func (q *queue) openLast() (err error) {
	q.w, err = os.OpenFile(q.path(q.segs[len(q.segs)-1].first), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	return err
}

// append adds a line, which ends in its only line break, and tells how many of
// the oldest went for want of room.
func (q *queue) append(line []byte) (dropped uint64, err error) {
	if len(line) > maxLine {
		return 0, fmt.Errorf("an event of %d bytes", len(line))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.w == nil {
		return 0, fs.ErrClosed
	}
	last := &q.segs[len(q.segs)-1]
	if last.lines > 0 && last.bytes+int64(len(line)) > q.roll {
		if err := q.rollOver(); err != nil {
			return 0, err
		}
		last = &q.segs[len(q.segs)-1]
	}
	if _, err := q.w.Write(line); err != nil {
		return 0, errors.Join(err, q.w.Truncate(last.bytes)) // no line begins in the middle of another
	}
	last.lines++
	last.bytes += int64(len(line))
	q.dirty = true
	select {
	case q.wake <- struct{}{}:
	default: // it is awake
	}
	return q.shrink()
}

// rollOver begins another segment.
func (q *queue) rollOver() error {
	was := q.w
	q.segs = append(q.segs, segment{first: q.segs[len(q.segs)-1].end()})
	if err := q.openLast(); err != nil {
		q.segs, q.w = q.segs[:len(q.segs)-1], was
		return err
	}
	q.old = append(q.old, was)
	return q.forget()
}

// shrink drops the oldest segments while there is too much.
func (q *queue) shrink() (dropped uint64, err error) {
	for q.bytes() > q.limit && len(q.segs) > 1 {
		s := q.segs[0]
		dropped += s.end() - max(q.next, s.first)
		q.next, q.offset = s.end(), 0
		err = errors.Join(err, q.forget())
	}
	return dropped, err
}

// bytes are those not done.
func (q *queue) bytes() int64 {
	n := -q.offset
	for _, s := range q.segs {
		n += s.bytes
	}
	return n
}

// forget removes segments of which every line is done.
func (q *queue) forget() error {
	for len(q.segs) > 1 && q.segs[0].end() <= q.next {
		if err := os.Remove(q.path(q.segs[0].first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		q.segs, q.offset = q.segs[1:], 0
	}
	q.next = max(q.next, q.segs[0].first) // somebody removed files
	return nil
}

// peek returns up to n lines that are not done, of one segment, and the number
// of the last of them.
func (q *queue) peek(n int) (lines [][]byte, last uint64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.forget(); err != nil {
		return nil, 0, err
	}
	s := q.segs[0]
	if q.next >= s.end() {
		return nil, 0, nil
	}
	f, err := os.Open(q.path(s.first))
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(io.NewSectionReader(f, q.offset, s.bytes-q.offset), 64<<10)
	last = q.next - 1
	for len(lines) < n && last+1 < s.end() {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil, 0, err
		}
		lines = append(lines, line)
		last++
	}
	return lines, last, nil
}

// done says that lines up to this number, which take so many bytes, need not be
// kept any more.
func (q *queue) done(number uint64, bytes int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if number < q.next { // they were dropped meanwhile
		return nil
	}
	q.next, q.offset = number+1, q.offset+bytes
	_, err := q.cursor.WriteAt(fmt.Appendf(nil, "%020d\n", number), 0)
	return errors.Join(err, q.forget())
}

// sync flushes what was appended. It holds nobody up. One caller at a time, and
// none beside close.
func (q *queue) sync() error {
	q.mu.Lock()
	old, w, dirty := q.old, q.w, q.dirty
	q.old, q.dirty = nil, false
	q.mu.Unlock()
	var err error
	for _, f := range old {
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if dirty {
		err = errors.Join(err, w.Sync())
	}
	return err
}

// pending is how many lines, and bytes, are not done.
func (q *queue) pending() (lines uint64, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.segs[len(q.segs)-1].end() - q.next, q.bytes()
}

func (q *queue) close() error {
	err := q.sync()
	q.mu.Lock()
	defer q.mu.Unlock()
	err = errors.Join(err, q.w.Close(), q.cursor.Close())
	q.w = nil
	return err
}
