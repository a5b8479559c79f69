package local

import (
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
)

// place makes content of so many bytes a blob of a repository: put sees to it
// that it is there and kept. Of the bytes, charged were counted as an upload's.
// The caller holds the repository's lock, at least shared.
// Errors: put's, DENIED by a quota, or the system's.
func (r *Registry) place(repo string, d digest.Digest, size, charged int64, put func() error) error {
	unhold := r.hold(d)
	defer unhold()
	path := r.linkPath(repo, blobsName, d)
	if r.linked(path, true) {
		return put()
	}
	if err := r.index.admit(repo, blobLink, d, size, charged); err != nil {
		return err
	}
	err := put()
	if err == nil {
		err = r.writeBlobLink(path)
	}
	if err != nil && !r.linked(path, false) {
		r.index.drop(repo, blobLink, d)
		r.index.recharge(repo, charged)
		return fmt.Errorf("link %s to %s: %w", d, repo, err)
	}
	r.note(repo)
	return err
}

// writeBlobLink makes an empty link, whose lease begins now.
func (r *Registry) writeBlobLink(path string) error {
	if err := r.writeLink(path, nil); err != nil {
		return err
	}
	now := r.o.Now()
	return os.Chtimes(path, now, now)
}
