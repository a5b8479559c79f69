package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

const (
	// readyWithin bounds how long a new process may take to read its settings.
	readyWithin = 30 * time.Second
	// serveWithin bounds how long it may take to open the data. Clients wait
	// meanwhile; if it is over, the old process opens it again.
	serveWithin = 30 * time.Second
)

// program is what runs, by its path: an upgrade puts another file there.
var program, errProgram = os.Executable()

// successor is a new process that is to take over.
type successor struct {
	cmd    *exec.Cmd
	link   *link
	frozen time.Time
}

func (n *successor) pid() int { return n.cmd.Process.Pid }

// prepare starts a new process and waits until it is ready to open the data.
// This process serves meanwhile.
func (p *Process) prepare(ctx context.Context) (*successor, error) {
	if os.Getpid() == 1 {
		return nil, errors.New("this is process 1 of a container, which ends with it; replace the container")
	}
	if errProgram != nil {
		return nil, errProgram
	}
	n, err := spawn()
	if err != nil {
		return nil, err
	}
	p.log.Info("started a new process, which is to take over", zap.Int("pid", n.pid()), zap.String("program", program))
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, errors.New("it is not ready in time"))
	defer cancel()
	step("old-offer")
	err = p.sockets.offer(n.link)
	if err == nil {
		err = n.expect(ctx, msgReady)
	}
	if err != nil {
		return nil, n.end(err)
	}
	step("old-ready")
	return n, nil
}

func spawn() (*successor, error) {
	l, theirs, err := newLink()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command(program, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), linkVariable+"="+strconv.Itoa(os.Getpid()))
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		l.close()
		return nil, fmt.Errorf("start a new process: %w", err)
	}
	return &successor{cmd: cmd, link: l}, nil
}

// expect waits for a message. The error says how the process ended, if it did.
func (n *successor) expect(ctx context.Context, kind string) error {
	m, err := n.link.receive(ctx)
	switch {
	case err != nil:
		return err
	case m.Kind != kind:
		m.close()
		return fmt.Errorf("it says %q where %q is due", m.Kind, kind)
	}
	return nil
}

// end sees to it that the process is no more, so that it holds no lock. The
// error says why, with its status where it ended by itself.
func (n *successor) end(why error) error {
	patience := time.Duration(0) // it hangs, or says what it should not
	if errors.Is(why, io.EOF) || errors.Is(why, errAbandoned) {
		patience = endWithin
	}
	n.link.close()
	kill := time.AfterFunc(patience, func() { _ = n.cmd.Process.Kill() })
	err := n.cmd.Wait()
	kill.Stop()
	if !errors.Is(why, io.EOF) {
		return fmt.Errorf("the new process %d: %w", n.pid(), why)
	}
	status := "status 0"
	if err != nil {
		status = strings.TrimPrefix(err.Error(), "exit ")
	}
	return fmt.Errorf("the new process %d ended with %s; its log says why", n.pid(), status)
}

// endWithin is how long a process may take that is about to end.
const endWithin = 10 * time.Second

var errAbandoned = errors.New("it is not needed")

// abandon tells the process to end, and waits for it.
func (n *successor) abandon(why string) {
	_ = n.link.send(message{Kind: msgAbort, Why: why})
	_ = n.end(errAbandoned)
}

// release gives the data to the new process; false where that does not serve it.
func (p *Process) release(ctx context.Context, n *successor) bool {
	step("old-release")
	ctx, cancel := context.WithTimeoutCause(ctx, serveWithin, errors.New("it does not serve in time"))
	defer cancel()
	err := n.link.send(message{Kind: msgReleased, Frozen: n.frozen})
	if err != nil {
		err = errors.Join(io.EOF, err)
	} else {
		step("old-released")
		err = n.expect(ctx, msgServing)
	}
	if err == nil {
		return true
	}
	err = n.end(err)
	p.log.Error("no hand-over: this process serves again", zap.Error(err), zap.Duration("pause", time.Since(n.frozen)))
	notifyReady("no hand-over: " + err.Error())
	return false
}

// finish has the new process answer what this one has under way, and returns
// when that is done.
func (p *Process) finish(ctx context.Context, n *successor) {
	p.log.Info("handed over: this process finishes what it has under way", zap.Int("to", n.pid()), zap.Duration("pause", time.Since(n.frozen)))
	notifyMain(n.pid())
	x := newRelay(n.link)
	p.front.begin(x.stage())
	step("old-relaying")
	began := time.Now()
	rctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(p.o.Grace, cancel) })
	defer stop()
	p.front.stop(rctx, relayFor)
	x.close()
	n.link.close()
	_ = n.cmd.Process.Release() // it lives on
	p.log.Info("all that was under way is finished", zap.Duration("after", time.Since(began)))
}
