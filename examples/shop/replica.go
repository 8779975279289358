package main

import (
	"cmp"
	"context"
	"hash/fnv"
	"os"
	"sync"

	"github.com/ServiceWeaver/weaver"
	"github.com/ServiceWeaver/weaver/runtime"
)

// version names the build: go build -ldflags "-X main.version=v2". The
// environment variable SHOP_VERSION goes before it.
var version = "v1"

func buildVersion() string { return cmp.Or(os.Getenv("SHOP_VERSION"), version) }

// Replica tells which replica of a component answered, and which build it is.
type Replica struct {
	weaver.AutoMarshal
	Component string `json:"component"`
	Weavelet  string `json:"weavelet"` // start of the weavelet's id; "local" where no deployer gave one
	PID       int    `json:"pid"`
	Version   string `json:"version"`
}

// here is the Replica of component in this process.
func here(component string) Replica {
	return Replica{
		Component: component,
		Weavelet:  weaveletID(),
		PID:       os.Getpid(),
		Version:   buildVersion(),
	}
}

// weaveletID reads what applications are otherwise not told, as telling
// replicas apart is what this one is for. Eight characters of the id do.
var weaveletID = sync.OnceValue(func() string {
	bootstrap, err := runtime.GetBootstrap(context.Background())
	if err != nil || !bootstrap.Exists() || bootstrap.Args.Id == "" {
		return "local"
	}
	id := bootstrap.Args.Id
	return id[:min(len(id), 8)]
})

// theme is how a build looks: builds with different versions differ at sight.
type theme struct {
	Accent string // on light ground
	Glow   string // on dark ground
	Tint   string // a light wash of Accent
}

var themes = []theme{
	{Accent: "#0f6b6b", Glow: "#5cc9c4", Tint: "#e3f1ef"}, // teal
	{Accent: "#b4411f", Glow: "#f2936f", Tint: "#fbe9e1"}, // terracotta
	{Accent: "#4b4aa8", Glow: "#a9a8f5", Tint: "#e9e9f8"}, // indigo
	{Accent: "#8a2a5b", Glow: "#ee8fbd", Tint: "#f8e5ee"}, // madder
	{Accent: "#55691a", Glow: "#b9cf6c", Tint: "#eef2dc"}, // moss
}

// themeOf gives v1, v2, … the themes in turn, and any other version the one its
// hash falls on.
func themeOf(version string) theme {
	if len(version) == 2 && version[0] == 'v' && '1' <= version[1] && version[1] <= '9' {
		return themes[int(version[1]-'1')%len(themes)]
	}
	h := fnv.New32a()
	h.Write([]byte(version))
	return themes[h.Sum32()%uint32(len(themes))]
}
