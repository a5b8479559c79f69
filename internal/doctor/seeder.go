package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/samara-p2p/samara/internal/daemon"
)

// seederView is what a seeder answered to the question who it is.
type seederView struct {
	url       string
	in        *daemon.Introduction // nil: it said nothing of the sort
	status    int                  // of HTTP; 0: no answer
	err       error                // why there was none
	took      time.Duration
	skew      time.Duration // this clock less the seeder's
	skewKnown bool
}

// problem says what is wrong with an answer that is none.
func (s *seederView) problem() string {
	switch {
	case errors.Is(s.err, context.DeadlineExceeded):
		return "does not answer in time: it hangs, or packets to it are dropped"
	case s.err != nil:
		return "does not answer: " + s.err.Error()
	case s.status != http.StatusOK:
		return fmt.Sprintf("answers %d when asked who it is", s.status)
	}
	return "answers, but is no seeder"
}

// meetSeeders asks all seeders who they are.
func meetSeeders(ctx context.Context, urls []string, ca string) []*seederView {
	list := make([]*seederView, len(urls))
	client, err := daemon.IntroductionClient(ca)
	var wg sync.WaitGroup
	for i, u := range urls {
		list[i] = &seederView{url: strings.TrimSuffix(u, "/"), err: err}
		if err == nil {
			wg.Go(func() { list[i].meet(ctx, client) })
		}
	}
	wg.Wait()
	return list
}

func (s *seederView) meet(ctx context.Context, client *http.Client) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+daemon.IntroductionPath, nil)
	if err != nil {
		s.err = err
		return
	}
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		s.err = bare(err)
		return
	}
	defer resp.Body.Close() // read only
	s.took, s.status = time.Since(began), resp.StatusCode
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		s.err = err
		return
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// A Date has whole seconds, cut off.
		s.skew, s.skewKnown = began.Add(s.took/2).Sub(date.Add(500*time.Millisecond)), true
	}
	var in daemon.Introduction
	if s.status == http.StatusOK && json.Unmarshal(body, &in) == nil && in.PeerID != "" {
		s.in = &in
	}
}
