package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/rollout"
)

// What is wrong with a plan is known without a deployer.
func TestPlan(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "plan.json")
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		return name
	}
	custom, err := json.Marshal(rollout.AllAtOnce())
	require.NoError(t, err)
	good := file(string(custom))
	for _, tt := range []struct {
		plan  string
		bake  time.Duration
		wrong string // "" if nothing is
	}{
		{"canary", time.Second, ""},
		{"bluegreen", time.Second, ""},
		{"linear", time.Second, ""},
		{"all", 0, ""},
		{"5m", 0, ""},
		{good, 0, ""},
		{"canary", 0, "bake"},
		{"canary", -1, "negative"},
		{"canarry", time.Second, `plan "canarry" is unknown`},
		{"-5m", time.Second, "is unknown"},
		{file("{"), 0, "read plan"},
		{file("null"), 0, "it holds no plan"},
		{file(""), 0, "it holds no plan"},
		{file(string(custom) + "{}"), 0, "something follows the plan"},
		{file(`{"steps": [{"kind": "start"}, {"kind": "wait ready"}, {"kind": "set weight", "weight": "2.5 %"}, {"kind": "bake", "for": "10s"},
			{"kind": "set weight", "weight": "50%"}, {"kind": "analyze", "for": "1m", "analysis": {"maxP99": "200ms"}}, {"kind": "promote"}, {"kind": "stop old"}],
			"drain": "1m", "progressDeadline": "5m"}`), 0, ""},
		{file(`{"steps": [{"kind": "bake", "for": "10"}]}`), 0, `the plan.steps[0].for is "10": write a time such as "10s"`},
		{file(`{"steps": [{"kind": "set weight", "weight": "5"}]}`), 0, `the plan.steps[0].weight is "5": write a share such as "5 %"`},
		{file(`{"steps": [{"kind": "set weight", "percent": 5}]}`), 0, `unknown field "percent"`},
		{file(`{"stesp": []}`), 0, `unknown field "stesp"`},
		{file("{}"), 0, "no steps"},
		{file(`{"locations": ["eu"], "steps": []}`), 0, `it names locations ["eu"], and there are none here`},
		{good + ".json", 0, "no such file"},
	} {
		spec := planSpec{Name: tt.plan, Bake: tt.bake}
		err := spec.check()
		if err == nil {
			_, err = spec.plan("v2", &envelopekit.App{Listeners: []envelopekit.ListenerInfo{{Name: "shop"}}})
		}
		if tt.wrong == "" {
			assert.NoError(t, err, tt.plan)
		} else {
			assert.ErrorContains(t, err, tt.wrong)
		}
	}
}

func TestParsePlan(t *testing.T) {
	p, err := parsePlan([]byte(`{"steps": [{"kind": "set weight", "weight": "2.5 %"}, {"kind": "bake", "for": "1m30s"}, {"kind": "set weight", "weight": 500}],
		"watch": {"maxP99": "200ms", "onFail": "pause"}, "drain": "-1s"}`))
	require.NoError(t, err)
	assert.Equal(t, &rollout.Plan{
		Steps: []rollout.Step{rollout.SetWeight(2.5), rollout.Bake(90 * time.Second), rollout.SetWeight(5)},
		Watch: &rollout.Analysis{MaxP99: 200 * time.Millisecond, OnFail: rollout.ThenPause},
		Drain: -time.Second,
	}, p)
}
