package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// Broken says where a chain breaks first.
type Broken struct {
	File string
	Line int // from 1
	Why  string
}

func (b *Broken) Error() string { return fmt.Sprintf("%s:%d: %s", b.File, b.Line, b.Why) }

// Span is what Verify has checked.
type Span struct {
	First, Last uint64 // numbers of lines; both 0 where there are none
	Head        string // hash of the last line: keep it elsewhere
}

// Anchor is a line that was seen before; the zero Anchor is none.
type Anchor struct {
	Seq  uint64
	Hash string
}

// Verify checks that files, in whatever order they are given, are one chain.
// The first line may have others before it that are not given. A file that ends
// in a part of a line is fine where it is the last: the daemon may be writing.
// The line of the anchor has to be there as it was.
// The error is a *Broken, or says which file cannot be read.
func Verify(files []string, a Anchor) (Span, error) {
	type start struct {
		file string
		seq  uint64
	}
	var order []start
	for _, file := range files {
		seq, err := firstOf(file)
		if err != nil {
			return Span{}, err
		}
		if seq > 0 {
			order = append(order, start{file, seq})
		}
	}
	slices.SortFunc(order, func(a, b start) int { return cmp.Compare(a.seq, b.seq) })
	var s Span
	for i, o := range order {
		if err := s.check(o.file, i == len(order)-1, a); err != nil {
			return s, err
		}
	}
	if a.Seq != 0 && (a.Seq < s.First || a.Seq > s.Last) {
		return s, fmt.Errorf("line number %d is missing: there are %d to %d", a.Seq, s.First, s.Last)
	}
	return s, nil
}

// firstOf is the number of a file's first line; 0 where it has none.
func firstOf(file string) (uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	line, err := bufio.NewReaderSize(io.LimitReader(f, maxLine), maxLine).ReadBytes('\n')
	if errors.Is(err, io.EOF) && len(line) == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, &Broken{file, 1, "is not a line of an audit log"}
	}
	e, _, err := parse(bytes.TrimSuffix(line, []byte{'\n'}))
	if err != nil {
		return 0, &Broken{file, 1, err.Error()}
	}
	return e.Seq, nil
}

// check goes on with the chain through one more file.
func (s *Span) check(file string, last bool, a Anchor) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, maxLine)
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && (len(line) == 0 || last):
			return nil
		case errors.Is(err, io.EOF):
			return &Broken{file, n, "the line is not whole"}
		case errors.Is(err, bufio.ErrBufferFull):
			return &Broken{file, n, "is not a line of an audit log"}
		case err != nil:
			return err
		}
		e, hash, err := parse(line[:len(line)-1])
		if err != nil {
			return &Broken{file, n, err.Error()}
		}
		switch {
		case s.Last == 0 && e.Seq == 1 && e.Prev != "":
			return &Broken{file, n, "the first line has one before it"}
		case s.Last == 0:
			s.First = e.Seq
		case e.Seq != s.Last+1:
			return &Broken{file, n, fmt.Sprintf("line number %d comes after %d: lines are missing or were moved", e.Seq, s.Last)}
		case e.Prev != s.Head:
			return &Broken{file, n, fmt.Sprintf("line number %d does not follow number %d as it is here: one of them was changed", e.Seq, s.Last)}
		}
		if e.Seq == a.Seq && hash != a.Hash {
			return &Broken{file, n, fmt.Sprintf("line number %d is another than it was: the log was written anew", e.Seq)}
		}
		s.Last, s.Head = e.Seq, hash
	}
}

// parse reads a line and checks its own hash.
func parse(line []byte) (e Event, hash string, err error) {
	i := bytes.LastIndex(line, []byte(hashKey))
	if i < 0 || len(line) != i+len(hashKey)+2*sha256.Size+2 || !bytes.HasSuffix(line, []byte(`"}`)) {
		return e, "", errors.New("is not a line of an audit log")
	}
	hash = string(line[i+len(hashKey) : len(line)-2])
	sum := sha256.Sum256(line[:i])
	if hash != hex.EncodeToString(sum[:]) {
		return e, "", errors.New("the line was changed: its hash is another")
	}
	if err := json.Unmarshal(append(bytes.Clone(line[:i]), '}'), &e); err != nil || e.Seq == 0 {
		return e, "", errors.New("is not a line of an audit log")
	}
	return e, hash, nil
}
