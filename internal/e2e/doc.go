// Package e2e deploys real applications with the example deployers, the way
// their users do, and hurts them: it builds binaries, starts processes, sends
// HTTP requests and signals, and looks for what is left behind. It has no code
// but tests; they run on Linux, where /proc tells whose a process is.
//
//	go test ./internal/e2e          # everything, in a minute or two on two cores
//	go test -short ./internal/e2e   # one deployment of collatz and one of the shop
//
// With -race the deployer of some of the tests is built with the race detector
// as well.
//
// Directory misfit holds an application that misbehaves as it is told.
package e2e
