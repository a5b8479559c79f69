package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// saved reads a manifest that is in the backup.
func (b *run) saved(d digest.Digest) ([]byte, error) {
	f, err := os.Open(b.path(filepath.FromSlash(contentPath(d))))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, registry.MaxManifestSize)
}

func readAtMost(r io.Reader, n int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, n+1))
	if err == nil && int64(len(content)) > n {
		err = fmt.Errorf("it has more than %d bytes", n)
	}
	return content, err
}

// save makes content part of the snapshot, and copies it unless the backup has
// it. Errors: errLost.
func (b *run) save(ctx context.Context, d digest.Digest, kept bool) error {
	if b.content[d] {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f, in, err := store.Peek(filepath.Join(b.Data, "store"), d)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %s", errLost, d)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	to := b.path(filepath.FromSlash(contentPath(d)))
	if fi, err := os.Stat(to); err != nil || fi.Size() != in.Size {
		if err := b.copy(ctx, d, f, to); err != nil {
			return err
		}
		b.report.BlobsCopied++
		b.report.BytesCopied += in.Size
	} else if d.Algorithm() != digest.SHA256 {
		if b.sums[d], err = sumOf(to); err != nil {
			return err
		}
	}
	b.Progress.Blobs.Add(1)
	b.content[d] = true
	b.entries = append(b.entries, entry{Digest: d, Size: in.Size, MediaType: in.Meta.MediaType, Sources: in.Meta.Sources, Kept: kept})
	b.step("content saved")
	return nil
}

// copy copies content, by way of a file that counts for nothing.
func (b *run) copy(ctx context.Context, d digest.Digest, from io.Reader, to string) error {
	tmp := b.path(partialName, "content")
	b.step("copy begins")
	var also hash.Hash
	if d.Algorithm() != digest.SHA256 {
		also = sha256.New()
	}
	if err := copyVerified(ctx, d, from, tmp, also, b.Progress); err != nil {
		return err
	}
	if also != nil {
		b.sums[d] = hex.EncodeToString(also.Sum(nil))
	}
	b.step("copied")
	if err := os.MkdirAll(filepath.Dir(to), dirPerm); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

// copyVerified writes content to a new file and flushes it. also, where not
// nil, is fed all of it. Errors: errLost where it has another digest.
func copyVerified(ctx context.Context, d digest.Digest, from io.Reader, to string, also io.Writer, p *Progress) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, filePerm)
	if err != nil {
		return err
	}
	v := d.Verifier()
	writers := []io.Writer{f, v, counter{ctx, p}}
	if also != nil {
		writers = append(writers, also)
	}
	_, err = io.Copy(io.MultiWriter(writers...), from)
	if err == nil && !v.Verified() {
		err = fmt.Errorf("%w: %s has another digest", errLost, d)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(to)) // a full disk needs the room
	}
	return nil
}

// counter tells progress what is written, and ends a copy with its context.
type counter struct {
	ctx context.Context
	p   *Progress
}

func (c counter) Write(p []byte) (int, error) {
	c.p.Bytes.Add(int64(len(p)))
	return len(p), context.Cause(c.ctx)
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}
