module github.com/weaverkit/weaverkit/internal/bench/proxy

go 1.26.0

replace github.com/weaverkit/weaverkit => ../../..

require (
	github.com/weaverkit/weaverkit v0.0.0-00010101000000-000000000000
	golang.org/x/sys v0.49.0
)
