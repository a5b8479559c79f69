package scrub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
)

// record is what is kept over a restart: the round under way, or the last one.
type record struct {
	Began   time.Time     `json:"began"`
	Open    bool          `json:"open"`             // it has not come to its end
	Ended   time.Time     `json:"ended"`            // when the last one did
	Cursor  digest.Digest `json:"cursor,omitempty"` // what was checked last
	Blobs   int64         `json:"blobs"`
	Bytes   int64         `json:"bytes"`
	Damaged int64         `json:"damaged"`
}

// maxRecord bounds what is read of the file, in bytes.
const maxRecord = 4 << 10

// load reads a record; the zero one where there is none, or it cannot be
// understood, which is an error too.
func load(file string) (record, error) {
	fi, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, err
	}
	if fi.Size() > maxRecord {
		return record{}, fmt.Errorf("%d bytes are too many", fi.Size())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, err
	}
	if now := time.Now(); r.Began.After(now) { // the clock was set back
		r.Began = now
	}
	return r, nil
}

func (r record) save(file string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return renameio.WriteFile(file, append(b, '\n'), 0o600)
}
