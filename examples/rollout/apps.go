package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit"
)

// sample is what is deployed without a configuration.
const sample = "github.com/weaverkit/weaverkit/examples/shop"

// A section is what the configuration says in [rollout].
type section struct {
	Listeners envelopekit.ListenerConfig `toml:"listeners"`
}

// loadApp loads the application of the configuration or the binary or, without
// one, builds the sample.
func loadApp(file, binary string, signals <-chan os.Signal) (*envelopekit.App, error) {
	if file != "" {
		return readApp(file)
	}
	fmt.Fprintln(os.Stderr, "building the sample application, examples/shop")
	ctx, cancel := context.WithCancel(context.Background())
	built := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-signals:
		case <-built:
		}
	}()
	out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, sample).CombinedOutput()
	interrupted := ctx.Err() != nil
	close(built)
	if interrupted {
		return nil, errKilled
	} else if err != nil {
		return nil, fmt.Errorf("build the sample application: %w\n%s\nrun this in a checkout of weaverkit, or name a configuration: rollout deploy weaver.toml", err, out)
	}
	app, err := envelopekit.LoadBinary(binary)
	if err != nil {
		return nil, err
	}
	return sampleVersion(app, "v1", 0), nil
}

// readApp loads the application of a configuration or a binary.
func readApp(file string) (app *envelopekit.App, err error) {
	if strings.HasSuffix(file, ".toml") {
		app, err = envelopekit.LoadApp(file)
	} else {
		app, err = envelopekit.LoadBinary(file)
	}
	if err == nil {
		err = app.Section(deployerName, &section{})
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return app, nil
}

// sampleVersion returns the shop under another name, of whose requests a share
// fails.
func sampleVersion(app *envelopekit.App, name string, errors float64) *envelopekit.App {
	v := *app
	v.Config = &protos.AppConfig{Name: app.Name, Binary: app.Config.Binary, Env: []string{"SHOP_VERSION=" + name}}
	if errors > 0 {
		v.Config.Sections = map[string]string{"github.com/ServiceWeaver/weaver/Main": fmt.Sprintf("error_percent = %g", errors)}
	}
	return &v
}
