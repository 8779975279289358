.PHONY: check test bench

check: ## what CI runs
	.ci/run

test:
	go test ./...

bench: ## the figures of BENCHMARKS.md
	go test -run '^$$' -bench . ./...
