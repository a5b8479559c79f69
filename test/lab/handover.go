package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/samara-p2p/samara/internal/status"
)

// HandOver has the peerd replaced by a new process of the same program (SIGHUP),
// and waits until that answers. The old one may still finish what it has under
// way.
func (p *Peerd) HandOver(ctx context.Context) error { return p.handOver(ctx, p.Status) }

// HandOver is as Peerd's.
func (s *Seeder) HandOver(ctx context.Context) error { return s.handOver(ctx, s.Status) }

// handOver is a Process's. status is of whoever answers.
func (p *Process) handOver(ctx context.Context, status func(context.Context) (*status.Status, error)) error {
	st, err := status(ctx)
	if err != nil {
		return err
	}
	old := st.PID
	p.heir.Store(awaited)
	_ = unix.Kill(old, syscall.SIGHUP) // it is the one that answers, ours or an heir
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	err = Eventually(ctx, func() error {
		st, err = status(ctx)
		if err == nil && st.PID == old {
			err = errors.New("the old process answers")
		}
		return err
	})
	if err != nil {
		p.heir.Store(0)
		return fmt.Errorf("hand-over of %s: %w\n%s", p.Title(), err, p.Tail(20))
	}
	p.heir.Store(int64(st.PID))
	return nil
}

// handOverTimeout is longer than what the old process gives the new one.
const handOverTimeout = 2 * time.Minute

// awaited stands for a process that is not known yet.
const awaited = -1

// endHeirs waits for the end of the process that took over, if one has. It is
// nobody's child that could be waited for.
func (p *Process) endHeirs() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		pid := p.heir.Load()
		if pid == 0 || pid > 0 && !alive(pid) {
			return
		}
		<-tick.C
	}
}

// alive tells whether a process is there, and with it its ports: a zombie's other
// threads may hold them for a moment longer.
func alive(pid int64) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest) // from field 3 of proc_pid_stat(5) on, the state
	const threads = 20 - 3
	return err == nil && len(f) > threads && (f[0] != "Z" || f[threads] > "1")
}
