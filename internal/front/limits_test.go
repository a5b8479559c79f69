package front

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func ask(h http.Handler, method, from string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/v2/team/app/blobs/uploads/", nil)
	r.RemoteAddr = from
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

var fine = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })

func TestRate(t *testing.T) {
	now := time.Unix(1000, 0)
	l := NewLimits(LimitOptions{Rate: 2, Burst: 5, Now: func() time.Time { return now }})
	h := l.Requests(fine)
	for i := range 5 {
		if w := ask(h, "GET", "10.0.0.1:1"); w.Code != 200 {
			t.Fatalf("request %d: %d", i, w.Code)
		}
	}
	w := ask(h, "GET", "10.0.0.1:2")
	if w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), `"code":"TOOMANYREQUESTS"`) {
		t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := ask(h, "GET", "10.0.0.2:1"); w.Code != 200 {
		t.Fatal("another client is limited, too")
	}
	now = now.Add(500 * time.Millisecond)
	if w := ask(h, "GET", "10.0.0.1:1"); w.Code != 200 {
		t.Fatal("half a second is worth a request")
	}
	if w := ask(h, "GET", "10.0.0.1:1"); w.Code != 429 {
		t.Fatal("and no more; a request that was refused is not counted")
	}
	for range 5 {
		ask(h, "GET", "[2001:db8::1]:1")
	}
	if w := ask(h, "GET", "[2001:db8::2]:1"); w.Code != 429 {
		t.Fatal("a /64 is one client")
	}
}

func TestRateIsBounded(t *testing.T) {
	l := NewLimits(LimitOptions{Rate: 1})
	for i := range maxClients + 10 {
		l.take(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
	}
	if len(l.clients) != maxClients || l.order.Len() != maxClients {
		t.Fatalf("%d %d clients", len(l.clients), l.order.Len())
	}
}

func TestUploads(t *testing.T) {
	l := NewLimits(LimitOptions{Uploads: 3, UploadsPerClient: 2})
	entered, release := make(chan struct{}), make(chan struct{})
	h := l.Uploads(func(r *http.Request) string { return r.Header.Get("User") }, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}))
	done := make(chan int)
	send := func(from string) {
		go func() { done <- ask(h, "PATCH", from).Code }()
		<-entered
	}
	send("10.0.0.1:1")
	send("10.0.0.1:2")
	if w := ask(h, "PUT", "10.0.0.1:3"); w.Code != 429 || w.Header().Get("Retry-After") != "5" {
		t.Fatalf("the third of one client: %d", w.Code)
	}
	send("10.0.0.2:1")
	if w := ask(h, "POST", "10.0.0.3:1"); w.Code != 429 || !strings.Contains(w.Body.String(), "TOOMANYREQUESTS") {
		t.Fatalf("the fourth in all: %d", w.Code)
	}
	go func() { done <- ask(h, "GET", "10.0.0.1:4").Code }() // sends nothing
	<-entered
	close(release)
	for range 4 {
		if code := <-done; code != 200 {
			t.Error(code)
		}
	}
	if l.total != 0 || len(l.uploads) != 0 {
		t.Errorf("left: %d %v", l.total, l.uploads)
	}
	if none := NewLimits(LimitOptions{}); fmt.Sprintf("%p", none.Requests(fine)) != fmt.Sprintf("%p", fine) {
		t.Error("no limit costs something")
	}
}
