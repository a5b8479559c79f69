package local

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/registry"
)

// maxUploads bounds the uploads that have not ended, which cost a directory
// each.
const maxUploads = 20_000

// newID makes a random UUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// StartUpload implements registry.Writer. The state is not flushed: who
// started an upload before power was lost has to start again.
func (r *Registry) StartUpload(_ context.Context, n registry.Name, alg digest.Algorithm) (registry.Upload, error) {
	r.mu.Lock()
	open := len(r.uploads)
	r.mu.Unlock()
	if open >= maxUploads {
		return nil, &registry.Error{Status: http.StatusTooManyRequests, Code: registry.CodeTooManyRequests, RetryAfter: time.Minute,
			Message: fmt.Sprintf("%d uploads were started and have not ended; end some, or wait until they expire", open)}
	}
	if err := r.o.Store.MakeRoom(copyBuffer); err != nil {
		return nil, storeError(err)
	}
	u := r.newUpload(newID(), uploadState{Repository: n.Repository, Algorithm: alg, Started: r.o.Now()})
	u.used = u.Started
	if err := u.makeFiles(); err != nil {
		return nil, errors.Join(u.writeError(err), os.RemoveAll(u.dir))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uploads[u.id] = u
	return u, nil
}

// makeFiles makes the upload's directory. The state comes last: without it
// the directory is a leftover.
func (u *upload) makeFiles() error {
	if err := os.Mkdir(u.dir, dirPerm); err != nil {
		return err
	}
	f, err := os.OpenFile(u.data(), os.O_CREATE|os.O_WRONLY|os.O_EXCL, filePerm)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	content, err := json.Marshal(u.uploadState)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(u.dir, stateName), content, filePerm)
}

// FindUpload implements registry.Writer.
func (r *Registry) FindUpload(_ context.Context, n registry.Name, id string) (registry.Upload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.uploads[id]
	if u == nil || u.Repository != n.Repository {
		return nil, uploadUnknown(id)
	}
	return u, nil
}

// loadUploads takes up what an earlier process received. A directory that
// makes no sense is removed.
func (r *Registry) loadUploads() error {
	root := filepath.Join(r.o.Dir, uploadsName)
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		var s uploadState
		err := readLink(filepath.Join(dir, stateName), &s)
		var fi fs.FileInfo
		if err == nil {
			fi, err = os.Stat(filepath.Join(dir, dataName))
		}
		known := s.Algorithm == digest.SHA256 || s.Algorithm == digest.SHA512
		if err != nil || !known || !registry.ValidRepository(s.Repository) {
			r.log.Info("leftover of an upload removed", zap.String("path", dir), zap.Error(err))
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		u := r.newUpload(e.Name(), s)
		u.size, u.used = fi.Size(), fi.ModTime()
		u.resume()
		r.uploads[u.id] = u
	}
	return nil
}

// expireUploads ends, now and then, uploads that got no bytes for long.
func (r *Registry) expireUploads(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.expire()
		}
	}
}

func (r *Registry) expire() {
	old := r.o.Now().Add(-r.o.UploadExpiry)
	r.mu.Lock()
	var all []*upload
	for _, u := range r.uploads {
		all = append(all, u)
	}
	r.mu.Unlock()
	for _, u := range all {
		u.expire(old)
	}
}

// expire ends an upload that was not used since old.
func (u *upload) expire(old time.Time) {
	select {
	case <-u.turn:
		defer func() { u.turn <- struct{}{} }()
	default:
		return // somebody writes
	}
	u.mu.Lock()
	keep := u.ended || u.used.After(old)
	u.mu.Unlock()
	if keep {
		return
	}
	u.end("expired")
	u.r.log.Info("upload expired", zap.String("repository", u.Repository), zap.String("id", u.id), zap.Int64("bytes", u.Size()))
}
