// Package tools keeps in go.mod what is needed from other modules besides their
// programs: aws-sdk-go for the service models in it, which
// providers/fake/aws/apimodel cuts its own out of. The imported package stands for
// the module; it has no dependencies.
package tools

import _ "github.com/aws/aws-sdk-go/aws/awserr"
