package events

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// publishUntilKilled is a process of TestKill: it publishes and delivers, and says
// what it has done.
func publishUntilKilled(dir string) {
	c := Endpoint{Name: "ci", URL: "https://ci.test/hook"}
	if err := c.check(); err != nil {
		panic(err)
	}
	r := &receiver{}
	r.say = func(n int) int {
		if n%20 == 0 { // then it waits a second, and the queue grows
			return 500
		}
		var e cloudEvent
		if err := json.Unmarshal(r.body[n-1], &e); err != nil {
			panic(err)
		}
		fmt.Println("delivered", e.Data.Tag)
		return 200
	}
	h, err := Open(Options{Dir: dir, Endpoints: []Endpoint{c}, transport: r})
	if err != nil {
		panic(err)
	}
	for i := 0; ; i++ {
		tag := fmt.Sprintf("%s-%d", os.Getenv("EVENTS_TEST_ROUND"), i)
		h.Publish(pushed(tag))
		fmt.Println("published", tag)
	}
}

// Whatever was published when a process was killed is delivered, by that one or a
// later one, and in order.
func TestKill(t *testing.T) {
	const rounds = 20
	dir := t.TempDir()
	var published, delivered []string
	for round := range rounds {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "EVENTS_TEST_PUBLISH="+dir, fmt.Sprintf("EVENTS_TEST_ROUND=%d", round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		watchdog := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		before, most := len(published), 1+rand.IntN(200)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			what, tag, _ := strings.Cut(lines.Text(), " ")
			if what == "delivered" {
				delivered = append(delivered, tag)
			} else if published = append(published, tag); len(published) == before+most {
				_ = cmd.Process.Kill()
			}
		}
		watchdog.Stop()
		_ = cmd.Wait() // it was killed
		if len(published) == before {
			t.Fatal("the process published nothing")
		}
	}
	before := len(delivered)
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		h := hubTo(t, dir, r, nil)
		synctest.Wait()
		h.Close()
		if s := h.States()[0]; s.Queued != 0 || s.Dropped != 0 {
			t.Fatalf("%+v", s)
		}
		for _, subject := range r.ids(t) {
			delivered = append(delivered, strings.TrimPrefix(subject, "local/team/app:"))
		}
	})
	t.Logf("%d published, %d delivered before they were killed, %d after", len(published), before, len(delivered)-before)
	first := map[string]int{}
	for i, tag := range delivered {
		if _, again := first[tag]; !again {
			first[tag] = i
		}
	}
	last := -1
	for _, tag := range published {
		at, ok := first[tag]
		if !ok || at < last {
			t.Fatalf("%s is lost (%v), or came before one that was published earlier", tag, !ok)
		}
		last = at
	}
	if before == 0 || len(delivered) == before {
		t.Error("the processes delivered nothing, or all of it")
	}
}
