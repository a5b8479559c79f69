package local

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

const (
	stateName = "state" // uploadState
	dataName  = "data"  // what was received

	copyBuffer = 256 << 10
	// writeback is how much is received between calls of startWriteback.
	writeback = 8 << 20
	// aheadFrom is the size in bytes that pushAhead is for.
	aheadFrom = 1 << 20
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// uploadState is what must be known of an upload beside its bytes. Their
// number is the size of the file: what was received in order, however the
// process ended.
type uploadState struct {
	Repository string           `json:"repository"`
	Algorithm  digest.Algorithm `json:"algorithm"`
	Started    time.Time        `json:"started"`
}

// upload implements registry.Upload.
type upload struct {
	uploadState
	r   *Registry
	id  string
	dir string

	turn chan struct{} // holds a token while nobody writes; guards sum and hashed
	sum  hash.Hash     // of the first hashed bytes
	// hashed falls behind size where an earlier process received bytes.
	hashed int64
	// What is counted of it by the quotas of its repository and of the store.
	charged, reserved int64

	mu     sync.Mutex
	size   int64
	used   time.Time
	writer registry.Body // of who has the turn
	ended  bool
}

func (r *Registry) newUpload(id string, s uploadState) *upload {
	u := &upload{uploadState: s, r: r, id: id, dir: filepath.Join(r.o.Dir, uploadsName, id), turn: make(chan struct{}, 1), sum: s.Algorithm.Hash()}
	u.turn <- struct{}{}
	return u
}

// ID implements registry.Upload.
func (u *upload) ID() string { return u.id }

// Size implements registry.Upload.
func (u *upload) Size() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.size
}

func (u *upload) data() string { return filepath.Join(u.dir, dataName) }

func uploadUnknown(id string) error {
	return &registry.Error{Status: http.StatusNotFound, Code: registry.CodeBlobUploadUnknown,
		Message: fmt.Sprintf("upload %.64q is unknown here: it has ended, or waited too long; start again", id)}
}

// take waits for the turn to write. Whoever has it, with a body whose client
// may be long gone, is interrupted.
func (u *upload) take(ctx context.Context, body registry.Body) error {
	u.mu.Lock()
	if u.writer != nil {
		u.writer.Interrupt()
	}
	u.mu.Unlock()
	select {
	case <-u.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		u.turn <- struct{}{}
		return uploadUnknown(u.id)
	}
	u.writer, u.used = body, u.r.o.Now()
	return nil
}

func (u *upload) give() {
	u.mu.Lock()
	u.writer, u.used = nil, u.r.o.Now()
	u.mu.Unlock()
	u.turn <- struct{}{}
}

// Append implements registry.Upload.
func (u *upload) Append(ctx context.Context, offset int64, body registry.Body) (int64, error) {
	if err := u.take(ctx, body); err != nil {
		return u.Size(), err
	}
	defer u.give()
	size := u.Size()
	if offset >= 0 && offset != size {
		return size, &registry.OffsetError{Offset: offset, Size: size}
	}
	f, err := os.OpenFile(u.data(), os.O_WRONLY, filePerm)
	if err != nil {
		return size, fmt.Errorf("upload to %s: %w", u.Repository, err)
	}
	err = u.copy(f, body)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return u.Size(), err
}

// copy writes what comes, and hashes it where the hash is not behind.
func (u *upload) copy(f *os.File, body io.Reader) error {
	bp := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(bp)
	size := u.Size()
	told := size
	for {
		n, rerr := body.Read(*bp)
		if p := (*bp)[:n]; n > 0 {
			if size+int64(n) > piece.MaxBlobSize {
				return &registry.Error{Status: http.StatusRequestEntityTooLarge, Code: registry.CodeBlobUploadInvalid,
					Message: fmt.Sprintf("blobs of up to %d bytes are taken", int64(piece.MaxBlobSize))}
			}
			if err := u.charge(int64(n)); err != nil {
				return err
			}
			if _, err := f.WriteAt(p, size); err != nil {
				return u.writeError(err)
			}
			if u.hashed == size {
				u.sum.Write(p)
				u.hashed += int64(n)
			}
			if size += int64(n); size-told >= writeback {
				startWriteback(f, told, size-told)
				told = size
			}
			u.mu.Lock()
			u.size, u.used = size, u.r.o.Now()
			u.mu.Unlock()
			u.r.m.received.Add(float64(n))
		}
		switch {
		case errors.Is(rerr, io.EOF):
			return nil
		case rerr != nil:
			return rerr
		}
	}
}

func (u *upload) writeError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &registry.Error{Status: http.StatusInsufficientStorage, Code: registry.CodeUnavailable, Message: "the registry's disk is full; ask its operator to free space, then send the rest or start again", Err: err}
	}
	return fmt.Errorf("upload to %s: %w", u.Repository, err)
}

// Commit implements registry.Upload.
func (u *upload) Commit(ctx context.Context, d digest.Digest) error {
	if err := u.take(ctx, nil); err != nil {
		return err
	}
	defer u.give()
	right, err := u.verify(d)
	if err != nil {
		return err
	}
	if !right {
		u.end("wrong digest")
		return &registry.Error{Status: http.StatusBadRequest, Code: registry.CodeDigestInvalid,
			Message: fmt.Sprintf("the %d bytes received do not have digest %s; start the upload again", u.Size(), d)}
	}
	if err := u.r.pushAhead(ctx, d, u.Size(), u.data()); err != nil {
		return err
	}
	u.r.o.Store.Unreserve(u.reserved) // Adopt makes room for it anew
	u.reserved = 0
	if err := u.r.take(ctx, u.r.name(u.Repository), d, u.Size(), u.charged, u.data()); err != nil {
		u.reserve(u.Size())
		return err
	}
	u.charged = 0
	u.end("committed")
	return nil
}

// Take moves a file of so many bytes, whose content was found to be d, into a
// repository. It is on the file system of the store, and nobody writes to it.
func (r *Registry) Take(ctx context.Context, n registry.Name, d digest.Digest, size int64, path string) error {
	if err := r.pushAhead(ctx, d, size, path); err != nil {
		return err
	}
	return r.take(ctx, n, d, size, 0, path)
}

// pushAhead keeps large content elsewhere before any lock is taken, since that
// takes long; under the locks it is only looked for.
func (r *Registry) pushAhead(ctx context.Context, d digest.Digest, size int64, path string) error {
	if r.o.Durable == nil || size < aheadFrom {
		return nil
	}
	return r.push(ctx, d, path, "")
}

// take is Take of a file of which charged bytes count as an upload's.
func (r *Registry) take(ctx context.Context, n registry.Name, d digest.Digest, size, charged int64, path string) error {
	// Adopt flushes it, too, which is quick then: what waits for this lock waits
	// for no disk.
	if in, err := r.o.Store.Stat(d); err != nil || !in.Complete {
		if err := syncFile(path); err != nil {
			return fmt.Errorf("flush what was pushed to %s: %w", n, err)
		}
	}
	lock := r.lock(n.Repository)
	lock.RLock()
	defer lock.RUnlock()
	put := func() error { return r.adopt(ctx, n.Repository, d, path, "") }
	if err := r.place(n.Repository, d, size, charged, put); err != nil {
		if r.o.Durable != nil {
			r.index.loosen(d, size) // it may be there, without a link
		}
		return err
	}
	r.o.Pushed(n, registry.Manifest{Digest: d, Size: size}, nil)
	return nil
}

// adopt moves a file with verified content into the store, for good.
func (r *Registry) adopt(ctx context.Context, repo string, d digest.Digest, path, mediaType string) error {
	if r.o.Durable != nil {
		if err := r.push(ctx, d, path, mediaType); err != nil {
			return err
		}
	}
	m := store.Meta{MediaType: mediaType, Sources: []string{r.name(repo).String()}}
	err := r.o.Store.Adopt(d, path, m)
	if errors.Is(err, store.ErrFull) && r.o.MakeRoom() {
		err = r.o.Store.Adopt(d, path, m)
	}
	if err == nil && r.o.Durable != nil && mediaType == "" { // manifests stay: collections read them all
		err = r.evictable(d)
	}
	return storeError(err)
}

// verify compares what was received with a digest. What was not hashed as it
// came is read back.
func (u *upload) verify(d digest.Digest) (bool, error) {
	if d.Algorithm() != u.Algorithm {
		u.Algorithm, u.sum, u.hashed = d.Algorithm(), d.Algorithm().Hash(), 0
	}
	if u.hashed != u.Size() {
		f, err := os.Open(u.data())
		if err != nil {
			return false, fmt.Errorf("upload to %s: %w", u.Repository, err)
		}
		defer f.Close()
		n, err := io.Copy(u.sum, io.NewSectionReader(f, u.hashed, u.Size()-u.hashed))
		u.hashed += n
		if err == nil && u.hashed != u.Size() {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return false, fmt.Errorf("upload to %s: %w", u.Repository, err)
		}
	}
	return digest.NewDigest(u.Algorithm, u.sum) == d, nil
}

// Cancel implements registry.Upload.
func (u *upload) Cancel(ctx context.Context) error {
	if err := u.take(ctx, nil); err != nil {
		return err
	}
	defer u.give()
	u.end("canceled")
	return nil
}

// end forgets the upload and removes its files. The caller has the turn.
func (u *upload) end(how string) {
	u.mu.Lock()
	u.ended = true
	u.mu.Unlock()
	u.r.mu.Lock()
	delete(u.r.uploads, u.id)
	u.r.mu.Unlock()
	u.uncharge()
	u.r.m.ended.WithLabelValues(how).Inc()
	if err := os.RemoveAll(u.dir); err != nil {
		u.r.log.Warn("cannot remove an upload", zap.String("path", u.dir), zap.Error(err))
	}
}

// charge makes room for n bytes in the quotas and on the disk before they are written.
// Errors: DENIED, UNAVAILABLE (507).
func (u *upload) charge(n int64) error {
	if err := u.r.index.charge(u.Repository, n); err != nil {
		return err
	}
	u.charged += n
	err := u.r.o.Store.Reserve(n)
	if errors.Is(err, store.ErrFull) && u.r.o.MakeRoom() {
		err = u.r.o.Store.Reserve(n)
	}
	if err != nil {
		return storeError(err)
	}
	u.reserved += n
	return storeError(u.r.o.Store.MakeRoom(n))
}

// resume counts what an earlier process received, whatever the quotas are now.
func (u *upload) resume() {
	u.charged = u.size
	u.r.index.recharge(u.Repository, u.size)
	u.reserve(u.size)
}

// reserve makes room in the store for what was received, where there is any:
// where there is none, Commit will say so.
func (u *upload) reserve(n int64) {
	if u.r.o.Store.Reserve(n) == nil {
		u.reserved += n
	}
}

func (u *upload) uncharge() {
	u.r.index.recharge(u.Repository, -u.charged)
	u.r.o.Store.Unreserve(u.reserved)
	u.charged, u.reserved = 0, 0
}
