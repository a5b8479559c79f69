package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	maxRunning = 8
	maxEnded   = 100
)

// Progress is how far a job is. Safe for concurrent use.
type Progress struct {
	mu sync.Mutex
	s  ProgressState
}

// ProgressState is a look at a Progress.
type ProgressState struct {
	Items      int    `json:"items"` // such as images
	ItemsTotal int    `json:"itemsTotal"`
	Bytes      int64  `json:"bytes"`
	BytesTotal int64  `json:"bytesTotal"` // known so far
	What       string `json:"what,omitempty"`
}

// Update changes it.
func (p *Progress) Update(f func(*ProgressState)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.s)
}

func (p *Progress) look() ProgressState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.s
}

// jobs runs jobs and remembers them.
type jobs struct {
	log *zap.Logger

	mu     sync.Mutex
	closed bool
	next   int
	list   []*job // in the order of their start
	wg     sync.WaitGroup
}

type job struct {
	Job
	progress *Progress
	cancel   context.CancelFunc
	done     chan struct{}
}

// start runs f as a job of a kind, unless one of that kind runs that must be the
// only one.
func (j *jobs) start(kind, user string, alone bool, f func(context.Context, *Progress, *Job) error) (Job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	running := 0
	for _, x := range j.list {
		if x.State != Running {
			continue
		}
		if running++; alone && x.Kind == kind {
			return Job{}, &Error{http.StatusConflict, fmt.Sprintf("job %s is one of these and runs; wait for its end, or end it", x.ID)}
		}
	}
	switch {
	case j.closed:
		return Job{}, &Error{http.StatusServiceUnavailable, "the seeder is stopping"}
	case running >= maxRunning:
		return Job{}, &Error{http.StatusTooManyRequests, fmt.Sprintf("%d jobs run; wait for the end of one", running)}
	}
	j.forget()
	j.next++
	ctx, cancel := context.WithCancel(context.Background())
	x := &job{Job: Job{ID: strconv.Itoa(j.next), Kind: kind, User: user, State: Running, Started: time.Now().UTC()},
		progress: &Progress{}, cancel: cancel, done: make(chan struct{})}
	j.list = append(j.list, x)
	j.wg.Go(func() {
		defer close(x.done)
		result := Job{}
		err := f(ctx, x.progress, &result)
		j.ended(x, result, err, ctx.Err() != nil)
		cancel()
	})
	j.log.Info("job started", zap.String("job", x.ID), zap.String("kind", kind), zap.String("user", user))
	return x.Job, nil
}

func (j *jobs) ended(x *job, result Job, err error, canceled bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	x.Prewarm, x.Collect = result.Prewarm, result.Collect
	x.State, x.Ended = Done, time.Now().UTC()
	switch {
	case err != nil && canceled && errors.Is(err, context.Canceled):
		x.State = Canceled
	case err != nil:
		x.State, x.Error = Failed, err.Error()
	}
	j.log.Info("job ended", zap.String("job", x.ID), zap.String("kind", x.Kind), zap.String("state", x.State),
		zap.Duration("took", x.Ended.Sub(x.Started)), zap.Error(err))
}

// forget drops the oldest of those that ended. The lock is held.
func (j *jobs) forget() {
	ended := 0
	for _, x := range j.list {
		if x.State != Running {
			ended++
		}
	}
	j.list = slices.DeleteFunc(j.list, func(x *job) bool {
		if x.State == Running || ended < maxEnded {
			return false
		}
		ended--
		return true
	})
}

func (j *jobs) all() []Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := []Job{}
	for _, x := range slices.Backward(j.list) {
		out = append(out, x.look())
	}
	return out
}

func (x *job) look() Job {
	v := x.Job
	v.Now = x.progress.look()
	return v
}

func (j *jobs) find(id string) (*job, error) {
	for _, x := range j.list {
		if x.ID == id {
			return x, nil
		}
	}
	return nil, &Error{http.StatusNotFound, fmt.Sprintf("there is no job %.40q; jobs are forgotten at a restart, and the oldest of more than %d", id, maxEnded)}
}

// get returns a job, once it has ended or wait is over.
func (j *jobs) get(ctx context.Context, id string, wait time.Duration) (Job, error) {
	j.mu.Lock()
	x, err := j.find(id)
	j.mu.Unlock()
	if err != nil {
		return Job{}, err
	}
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-x.done:
		case <-t.C:
		case <-ctx.Done():
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return x.look(), nil
}

// cancel asks a job to end, and returns it as it is then.
func (j *jobs) cancel(id string) (Job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	x, err := j.find(id)
	if err != nil {
		return Job{}, err
	}
	x.cancel()
	return x.look(), nil
}

// close ends all jobs and waits for them.
func (j *jobs) close() {
	j.mu.Lock()
	j.closed = true
	for _, x := range j.list {
		x.cancel()
	}
	j.mu.Unlock()
	j.wg.Wait()
}
