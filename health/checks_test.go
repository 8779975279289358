package health_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaverkit/weaverkit/health"
)

func expect(t *testing.T, name string, check health.CheckFunc, notReady bool, failure string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r, err := check(ctx)
	if r.NotReady != notReady || (err == nil) != (failure == "") || err != nil && !strings.Contains(err.Error(), failure) {
		t.Errorf("%s: %+v, %v; want not ready %v, failure %q", name, r, err, notReady, failure)
	}
}

func TestHTTP(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/warming":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/busy":
			w.WriteHeader(http.StatusTooManyRequests)
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		case "/silent":
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	expect(t, "ok", health.HTTP(server.URL, nil), false, "")
	expect(t, "own client", health.HTTP(server.URL, server.Client()), false, "")
	expect(t, "moved", health.HTTP(server.URL+"/moved", nil), false, "")
	expect(t, "warming", health.HTTP(server.URL+"/warming", nil), true, "")
	expect(t, "busy", health.HTTP(server.URL+"/busy", nil), true, "")
	expect(t, "broken", health.HTTP(server.URL+"/broken", nil), false, "500 Internal Server Error")
	expect(t, "endless", health.HTTP(server.URL+"/endless", nil), false, "")
	expect(t, "no url", health.HTTP("http://[", nil), false, "missing ']'")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := health.HTTP(server.URL+"/silent", nil)(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent: %v", err)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "listening", health.TCP(l.Addr().String()), false, "")
	l.Close()
	expect(t, "closed", health.TCP(l.Addr().String()), false, "refused")
}

func TestExec(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs sh")
	}
	expect(t, "ok", health.Exec("true"), false, "")
	expect(t, "fails", health.Exec("sh", "-c", "echo oh dear; exit 3"), false, "sh: exit status 3: oh dear")
	expect(t, "fails at length", health.Exec("sh", "-c", "seq 100000; exit 1"), false, "99999\n100000")
	expect(t, "is not there", health.Exec("/nonexistent"), false, "no such file")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := health.Exec("sh", "-c", "sleep 60 & sleep 60")(ctx); err == nil {
		t.Error("no error of a program that was killed")
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v to kill it", took)
	}
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &health.Heartbeat{Within: 3 * time.Second}
		expect(t, "before the first", h.Check, false, "no heartbeat yet")
		h.Beat()
		time.Sleep(3 * time.Second)
		expect(t, "just in time", h.Check, false, "")
		time.Sleep(time.Millisecond)
		expect(t, "too late", h.Check, false, "no heartbeat for 3.001s, of at most 3s")
		h.Beat()
		expect(t, "back", h.Check, false, "")
		if phi := h.Phi(time.Now()); phi != 0 {
			t.Errorf("φ is %v after two beats", phi)
		}
		zero := &health.Heartbeat{}
		zero.Beat()
		time.Sleep(30 * time.Second)
		expect(t, "the default", zero.Check, false, "")
		time.Sleep(time.Nanosecond)
		expect(t, "later than the default", zero.Check, false, "of at most 30s")
	})
}

// With φ a silence is judged by the habits of the target.
func TestHeartbeatPhi(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 1))
		regular := &health.Heartbeat{Within: time.Minute, MaxPhi: 8}
		moody := &health.Heartbeat{Within: time.Minute, MaxPhi: 8}
		patient := &health.Heartbeat{Within: time.Minute, MaxPhi: 8, Pause: 5 * time.Second}
		for range 300 {
			time.Sleep(time.Second)
			regular.Beat()
			patient.Beat()
			if rng.IntN(3) > 0 {
				moody.Beat()
			}
		}
		moody.Beat()
		time.Sleep(1400 * time.Millisecond)
		expect(t, "regular, a little late", regular.Check, false, "")
		time.Sleep(600 * time.Millisecond)
		expect(t, "regular, late", regular.Check, false, "no heartbeat for 2s: phi is")
		expect(t, "moody, late", moody.Check, false, "")
		expect(t, "with a pause, late", patient.Check, false, "")
		if r, m := regular.Phi(time.Now()), moody.Phi(time.Now()); r < 8 || m > 4 || m <= 0 {
			t.Errorf("φ is %v and %v", r, m)
		}
		time.Sleep(time.Hour)
		expect(t, "gone", moody.Check, false, "of at most 1m0s")
		regular.Beat() // the outage does not become a habit
		time.Sleep(2 * time.Second)
		expect(t, "late again", regular.Check, false, "phi is")
	})
}

// Beats that come in bursts do not make an ordinary silence suspicious.
func TestHeartbeatBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		usual := &health.Heartbeat{Within: 10 * time.Second, MaxPhi: 8}
		strict := &health.Heartbeat{Within: 10 * time.Second, MaxPhi: 8, MinDeviation: time.Millisecond}
		plain := &health.Heartbeat{Within: 10 * time.Second}
		for range 300 {
			usual.Beat()
			strict.Beat()
			plain.Beat()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond)
		expect(t, "usual", usual.Check, false, "")
		expect(t, "strict", strict.Check, false, "phi is")
		if phi := plain.Phi(time.Now()); phi != 0 {
			t.Errorf("φ is %v without MaxPhi", phi)
		}
		time.Sleep(time.Second)
		expect(t, "usual, silent", usual.Check, false, "phi is")
		expect(t, "plain", plain.Check, false, "")
	})
}

// In a prober a heartbeat that stops is found within its time and one period.
func TestHeartbeatInAProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, health.Options{})
		defer h.end()
		beat := &health.Heartbeat{Within: 2 * time.Second}
		policy := second()
		policy.FailureThreshold = 1
		if err := h.Add(health.Target{ID: "a", Check: beat.Check, Policy: policy}); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			beat.Beat()
			time.Sleep(time.Second)
		}
		h.want("a", health.Ready, "")
		time.Sleep(time.Second + time.Second + time.Millisecond)
		h.want("a", health.NotReady, "no heartbeat for")
	})
}
