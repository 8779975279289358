package envelopekit_test

import (
	"testing"

	"github.com/weaverkit/weaverkit/envelopekit/internal/apptest"
)

func TestMain(m *testing.M) {
	defer apptest.Clean()
	m.Run()
}
