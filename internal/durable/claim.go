package durable

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/pkg/objectstore"
)

const (
	claimKey = "samara.json"
	format   = "samara-objectstore 1"

	idName     = "id"      // of the bucket that the directory is a copy of
	syncName   = "sync"    // there while what was here before is being copied
	linksName  = "pending" // the journal
	copiesName = "copies"  // what waits to be copied

	maxClaim = 64 << 10
)

// claim is the object that says whose a bucket is.
type claim struct {
	Format string    `json:"format"`
	ID     string    `json:"id"`     // made with the bucket; directories remember it
	Holder string    `json:"holder"` // the process that writes to it
	Since  time.Time `json:"since"`
}

func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// loadState reads what an earlier process left beside the store.
func (h *Home) loadState() error {
	for _, dir := range []string{linksName, copiesName} {
		if err := os.MkdirAll(h.state(dir), 0o700); err != nil {
			return err
		}
	}
	id, err := os.ReadFile(h.state(idName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	h.id = strings.TrimSpace(string(id))
	h.syncing.Store(exists(h.state(syncName)))
	return errors.Join(h.loadJournal(), h.loadCopies(), h.loadSizes())
}

// start claims the bucket, or puts that off where the directory will do.
func (h *Home) start(ctx context.Context) error {
	deadline := time.Now().Add(startPatience)
	for {
		err := h.take(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil || objectstore.KindOf(err) != objectstore.Unavailable || !isRequest(err):
			return err
		case h.id != "" && exists(h.dir("repositories")):
			h.log.Warn("the object store does not answer; what is on disk is served, and pushes are refused until it does", zap.Error(h.note(err)))
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("it does not answer, and the data directory is empty, so that it is not known which repositories there are: %w", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// isRequest tells a request that failed from an answer that does not fit.
func isRequest(err error) bool { return errors.As(err, new(*objectstore.Error)) }

// take makes sure that the bucket is this directory's, and takes hold of it.
func (h *Home) take(ctx context.Context) error {
	found, err := h.readClaim(ctx)
	if err != nil {
		return err
	}
	mine := exists(h.dir("repositories"))
	switch {
	case found == nil && h.id != "" && !h.syncing.Load():
		return fmt.Errorf("its object %s is gone, which this seeder made: bring back the bucket's content; or remove %s, and what is still on this disk is copied to it anew", claimKey, h.state())
	case found == nil:
		if err := h.begin(); err != nil {
			return err
		}
	case h.id == "" && mine:
		return fmt.Errorf("it holds repositories of another seeder (ID %s), and %s has some, too: give another prefix, or an empty --data to go on with those of the bucket", found.ID, h.dir())
	case h.id == "":
		if err := h.writeState(idName, found.ID); err != nil {
			return err
		}
		h.id = found.ID
	case found.ID != h.id:
		return fmt.Errorf("it is not the one that %s is a copy of (ID %s, and not %s): give that one, or an empty --data", h.o.Data, found.ID, h.id)
	}
	if found != nil && !mine {
		if err := h.restore(ctx); err != nil {
			return err
		}
	}
	c, err := json.Marshal(claim{Format: format, ID: h.id, Holder: h.holder, Since: time.Now().UTC()})
	if err != nil {
		return err
	}
	if err := h.o.Objects.Put(ctx, claimKey, append(c, '\n'), objectstore.PutOptions{ContentType: "application/json"}); err != nil {
		return err
	}
	h.mu.Lock()
	h.claimed, h.failed = true, nil
	h.mu.Unlock()
	h.log.Info("the object store is this seeder's", zap.Stringer("location", h.o.Objects.Location()), zap.String("id", h.id))
	return nil
}

// begin makes a new bucket of an empty prefix. What is here already is copied
// to it, and the marker stays until that is done.
func (h *Home) begin() error {
	if err := h.writeState(syncName, ""); err != nil {
		return err
	}
	h.syncing.Store(true)
	if h.id != "" {
		return nil
	}
	id := newID()
	if err := h.writeState(idName, id); err != nil {
		return err
	}
	h.id = id
	return nil
}

func (h *Home) writeState(name, text string) error {
	return renameio.WriteFile(h.state(name), []byte(text+"\n"), 0o600, renameio.WithTempDir(h.state()))
}

// readClaim is nil where there is none.
func (h *Home) readClaim(ctx context.Context) (*claim, error) {
	content, _, err := h.o.Objects.Get(ctx, claimKey, maxClaim)
	if objectstore.KindOf(err) == objectstore.NotFound && !objectstore.NoBucket(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c claim
	if err := json.Unmarshal(content, &c); err != nil || c.Format != format || c.ID == "" {
		return nil, fmt.Errorf("its object %s is none of this program's, which knows format %q: give another prefix", claimKey, format)
	}
	return &c, nil
}

// watch sees to it that the bucket stays this process's, and notices when an
// object store that failed works again.
func (h *Home) watch() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	h.tidy()
	for {
		every := watchEvery
		if h.Status().Error != "" {
			every = watchFailing
		}
		timer.Reset(every)
		select {
		case <-h.ctx.Done():
			return
		case <-h.alarm:
			continue // look soon
		case <-timer.C:
		}
		h.look()
	}
}

func (h *Home) look() {
	h.mu.Lock()
	claimed, refused := h.claimed, h.refused
	h.mu.Unlock()
	if refused != nil {
		return
	}
	if !claimed {
		if err := h.take(h.ctx); err != nil && !isRequest(err) {
			h.giveUp(err)
		} else if h.note(err) == nil { // it is logged there
			h.hurry()
		}
		return
	}
	failing := h.Status().Error != ""
	c, err := h.readClaim(h.ctx)
	if failing && err == nil {
		h.log.Info("the object store works again")
		h.hurry()
	}
	if h.note(err) == nil && (c == nil || c.Holder != h.holder) {
		h.giveUp(errors.New("another process has taken the bucket over: two seeders cannot share a prefix; stop one of them, then start the other again"))
	}
}

// giveUp ends all writing.
func (h *Home) giveUp(err error) {
	h.mu.Lock()
	h.refused, h.since = err, time.Now()
	h.mu.Unlock()
	h.log.Error("the object store is not written to any more; pushes are refused", zap.Stringer("location", h.o.Objects.Location()), zap.Error(err))
}

// tidy ends uploads in parts that an earlier process left half-way, which cost
// room and are in no list. Nobody else writes below the prefix.
func (h *Home) tidy() {
	if h.usable() != nil {
		return
	}
	n := 0
	for _, place := range []string{blobsKey, cacheKey} {
		aborted, err := h.o.Objects.AbortUploads(h.ctx, place+"/")
		if err != nil && h.ctx.Err() == nil {
			h.log.Warn("cannot look for uploads left half-way in the object store; have a lifecycle rule abort them", zap.Error(err))
		}
		n += aborted
	}
	if n > 0 {
		h.log.Info("uploads left half-way were aborted in the object store", zap.Int("uploads", n))
	}
}
