package rollout

import (
	"fmt"
	"strings"
)

// Verdict is what an [Analysis] makes of a version's traffic.
type Verdict int

const (
	// Inconclusive: too little traffic to say, or nothing to compare with.
	Inconclusive Verdict = iota
	// Pass: the evidence is that the new version is good enough.
	Pass
	// Fail: the evidence is that the new version is not.
	Fail
)

var verdictNames = []string{"inconclusive", "pass", "fail"}

// String returns "inconclusive", "pass" or "fail".
func (v Verdict) String() string { return nameOf(verdictNames, int(v), "Verdict") }

// MarshalText returns what String does, or an error for no known verdict.
func (v Verdict) MarshalText() ([]byte, error) { return textOf(verdictNames, int(v), "verdict") }

// UnmarshalText understands what MarshalText makes.
func (v *Verdict) UnmarshalText(text []byte) error {
	return fromText(verdictNames, text, "verdict", (*int)(v))
}

// Rule is what happens after a verdict. The zero Rule is the default of the
// field that has it.
type Rule int

const (
	// ThenContinue goes on with the next step.
	ThenContinue Rule = iota + 1
	// ThenPause waits for a person.
	ThenPause
	// ThenRollBack gives all traffic back to the old version.
	ThenRollBack
)

var ruleNames = []string{"default", "continue", "pause", "roll back"}

// String returns "default", "continue", "pause" or "roll back".
func (r Rule) String() string { return nameOf(ruleNames, int(r), "Rule") }

// MarshalText returns what String does, or an error for no known rule.
func (r Rule) MarshalText() ([]byte, error) { return textOf(ruleNames, int(r), "rule") }

// UnmarshalText understands what MarshalText makes.
func (r *Rule) UnmarshalText(text []byte) error {
	return fromText(ruleNames, text, "rule", (*int)(r))
}

func nameOf(names []string, i int, typ string) string {
	if i < 0 || i >= len(names) {
		return fmt.Sprintf("%s(%d)", typ, i)
	}
	return names[i]
}

func textOf(names []string, i int, what string) ([]byte, error) {
	if i < 0 || i >= len(names) {
		return nil, fmt.Errorf("no %s has the number %d", what, i)
	}
	return []byte(names[i]), nil
}

func fromText(names []string, text []byte, what string, to *int) error {
	for i, name := range names {
		if name == string(text) {
			*to = i
			return nil
		}
	}
	return fmt.Errorf("no %s is called %q: use one of %s", what, text, strings.Join(names, ", "))
}
