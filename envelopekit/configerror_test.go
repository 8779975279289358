package envelopekit_test

import (
	"strings"
	"testing"

	"github.com/weaverkit/weaverkit/envelopekit"
)

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "ab", 1}, {"abc", "xabc", 1},
		{"kitten", "sitting", 3}, {"mlts", "mtls", 2}, {"flaw", "lawn", 2},
	} {
		if got, back := envelopekit.Distance(test.a, test.b), envelopekit.Distance(test.b, test.a); got != test.want || back != test.want {
			t.Errorf("%q, %q: got %d and %d, want %d", test.a, test.b, got, back, test.want)
		}
	}
}

func TestNearest(t *testing.T) {
	keys := []string{"args", "binary", "colocate", "env", "name", "rollout"}
	for word, want := range map[string]string{
		"binery": "binary", "BINARY": "binary", "arg": "args", "rollouts": "rollout", "collocate": "colocate",
		"x": "", "replicas": "", "": "", strings.Repeat("x", 1<<20): "",
	} {
		if got, ok := envelopekit.Nearest(word, keys); got != want || ok != (want != "") {
			t.Errorf("%.20q: got %q, want %q", word, got, want)
		}
	}
}
