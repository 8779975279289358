module github.com/weaverkit/weaverkit/internal/bench/routing

go 1.26.0

replace github.com/weaverkit/weaverkit => ../../..

require (
	github.com/buraksezer/consistent v1.0.0
	github.com/weaverkit/weaverkit v0.0.0-00010101000000-000000000000
)

require (
	github.com/ServiceWeaver/weaver v0.24.6 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
