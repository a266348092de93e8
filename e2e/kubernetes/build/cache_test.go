package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// notes hands on what is written to it.
type notes chan string

func (n notes) Write(p []byte) (int, error) {
	n <- string(p)
	return len(p), nil
}

func TestSecondRunWaitsForTheFirst(t *testing.T) {
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.lock(t.Context(), notes(nil), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()

	said := make(notes)
	got := make(chan error)
	go func() {
		second, err := c.lock(t.Context(), said, time.Millisecond)
		if err == nil {
			defer second.Close()
		}
		got <- err
	}()
	if text := <-said; !strings.Contains(text, fmt.Sprintf("process %d", os.Getpid())) || !strings.Contains(text, "waiting") {
		t.Errorf("the second run says %q, not whom it waits for", text)
	}
	select {
	case err := <-got:
		t.Fatalf("the second run did not wait: %v", err)
	default:
	}
	first.Close()
	if err := <-got; err != nil {
		t.Errorf("after the first run: %v", err)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.lock(t.Context(), notes(nil), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	said := make(notes)
	go func() {
		<-said
		cancel(errors.New("enough"))
	}()
	if _, err := c.lock(ctx, said, time.Hour); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("error %v, want the context's", err)
	}
}

func TestReadyOnlyWhenWhole(t *testing.T) {
	const key = "v1.37.2-abc"
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	made := func() string {
		dir := t.TempDir()
		script(t, dir, binaryName, "echo")
		if err := link(dir); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if c.ready(key) {
		t.Fatal("ready before anything was built")
	}
	lock, err := c.lock(t.Context(), notes(nil), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := c.install(made(), key); err != nil {
		t.Fatal(err)
	}
	if !c.ready(key) || c.ready("v1.37.2-other") {
		t.Fatal("the installed build, and only that, must be ready")
	}
	if err := os.Remove(filepath.Join(c.dir(key), binaryName)); err != nil {
		t.Fatal(err)
	}
	if c.ready(key) {
		t.Fatal("ready although the binary is gone")
	}
	if err := c.install(made(), key); err != nil || !c.ready(key) {
		t.Fatalf("a damaged build is not replaced: %v", err)
	}
}
