package durable

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/objectstore"
)

// sizes are those of pushed content, which is known without a request each.
// The file has a line for each; what is not in it is asked for, and noted.
type sizes struct {
	mu sync.Mutex
	of map[digest.Digest]int64
	f  *os.File
}

const sizesName = "sizes" // lines of DIGEST SIZE; -1 takes one back

// loadSizes reads the file and writes it anew without what was taken back.
func (h *Home) loadSizes() error {
	h.sizes.of = make(map[digest.Digest]int64)
	old, err := os.Open(h.state(sizesName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		lines := bufio.NewScanner(old)
		for lines.Scan() {
			text, number, _ := strings.Cut(lines.Text(), " ")
			d, size := digest.Digest(text), int64(0)
			if size, err = strconv.ParseInt(number, 10, 64); err != nil || d.Validate() != nil {
				continue // torn by a crash
			}
			if h.sizes.of[d] = size; size < 0 {
				delete(h.sizes.of, d)
			}
		}
		if err := errors.Join(lines.Err(), old.Close()); err != nil {
			return err
		}
	}
	return h.rewriteSizes()
}

func (h *Home) rewriteSizes() error {
	var text strings.Builder
	for d, size := range h.sizes.of {
		fmt.Fprintf(&text, "%s %d\n", d, size)
	}
	if err := renameio.WriteFile(h.state(sizesName), []byte(text.String()), 0o600, renameio.WithTempDir(h.state())); err != nil {
		return err
	}
	if h.sizes.f != nil {
		if err := h.sizes.f.Close(); err != nil {
			return err
		}
	}
	var err error
	h.sizes.f, err = os.OpenFile(h.state(sizesName), os.O_APPEND|os.O_WRONLY, 0o600)
	return err
}

// noteSize enters the size of content that is in the bucket; below 0: it is not
// any more.
func (h *Home) noteSize(d digest.Digest, size int64) {
	h.sizes.mu.Lock()
	defer h.sizes.mu.Unlock()
	old, known := h.sizes.of[d]
	if known == (size >= 0) && (!known || old == size) {
		return
	}
	if h.sizes.of[d] = size; size < 0 {
		delete(h.sizes.of, d)
	}
	if _, err := fmt.Fprintf(h.sizes.f, "%s %d\n", d, size); err != nil {
		h.log.Warn("cannot note the size of content; it is asked for after a restart", zap.Stringer("digest", d), zap.Error(err))
	}
}

func (h *Home) sizeOf(d digest.Digest) (int64, bool) {
	h.sizes.mu.Lock()
	defer h.sizes.mu.Unlock()
	size, ok := h.sizes.of[d]
	return size, ok
}

// restoreSizes learns all sizes from a list of the content.
func (h *Home) restoreSizes(ctx context.Context) error {
	h.sizes.mu.Lock()
	defer h.sizes.mu.Unlock()
	err := h.o.Objects.List(ctx, blobsKey+"/", func(o objectstore.Object) error {
		if parts := strings.Split(o.Key, "/"); len(parts) == 4 {
			if d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[3]); d.Validate() == nil {
				h.sizes.of[d] = o.Size
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return h.rewriteSizes()
}
