module github.com/weaverkit/weaverkit/internal/bench/proxy

go 1.26.0

replace github.com/weaverkit/weaverkit => ../../..

require golang.org/x/sys v0.49.0
