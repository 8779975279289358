package rollout_test

import (
	"testing"

	"github.com/weaverkit/weaverkit/rollout"
	"github.com/weaverkit/weaverkit/rollout/storetest"
)

func TestMemoryStore(t *testing.T) {
	storetest.TestStore(t, storetest.Test{
		New: func(*testing.T) rollout.Store { return &rollout.MemoryStore{} },
	})
}
