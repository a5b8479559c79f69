package audit

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
)

// tailBytes is how far back Tail looks.
const tailBytes = 512 << 10

// Tail returns the last lines of a log, the last one first: at most limit, and
// those that end within the last 512 KiB of the file. A line that is not as it was
// written is left out; Verify finds those.
func Tail(file string, limit int) ([]Event, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(st.Size(), tailBytes))
	n, err := f.ReadAt(b, st.Size()-int64(len(b)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	list := []Event{}
	for _, line := range slices.Backward(bytes.Split(b[:n], []byte{'\n'})) {
		if len(list) == limit {
			break
		}
		if e, _, err := parse(line); err == nil {
			list = append(list, e)
		}
	}
	return list, nil
}
