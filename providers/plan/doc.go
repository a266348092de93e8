// Package plan turns the difference between what a Service shall have and what
// exists into an ordered list of changes, prints it for people, and carries it
// out. Diff is pure; Engine runs the four verbs (Desired, Observe, Diff, Apply)
// in the one path that serves create, update, node change, delete and dry run.
package plan
