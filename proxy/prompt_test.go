package proxy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/weaverkit/weaverkit/proxy"
)

// What is seldom there in time is seldom looked for.
func TestPromptness(t *testing.T) {
	const n = 10_000
	for _, test := range []struct {
		name        string
		answered    func(int) bool
		least, most int
	}{
		{"always", func(int) bool { return true }, n, n},
		{"never", func(int) bool { return false }, n / 40, n / 30},
		{"nine of ten", func(i int) bool { return i%10 != 0 }, n * 99 / 100, n},
		{"one of ten", func(i int) bool { return i%10 == 0 }, n / 40, n / 25},
		{"from some time on", func(i int) bool { return i > n/2 }, n/2 - 100, n/2 + n/60},
	} {
		tried := proxy.Prompted(n, test.answered)
		assert.GreaterOrEqual(t, tried, test.least, test.name)
		assert.LessOrEqual(t, tried, test.most, test.name)
	}
}
