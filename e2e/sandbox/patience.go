package sandbox

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// slownessVariable says how many times slower than usual this machine is: 10 for
// an emulated one. Unset is 1.
const slownessVariable = "FAIRWAY_TEST_SLOWNESS"

// Patience is how long a test waits here for what on an ordinary machine it would
// wait for this long.
func Patience(ordinary time.Duration) time.Duration {
	value := os.Getenv(slownessVariable)
	if value == "" {
		return ordinary
	}
	factor, err := strconv.Atoi(value)
	if err != nil || factor < 1 {
		panic(fmt.Sprintf("environment variable %s=%q is not a whole number above 0", slownessVariable, value))
	}
	return time.Duration(factor) * ordinary
}
