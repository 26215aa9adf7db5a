package api

import (
	"encoding/json"
	"errors"
)

var errNoOperationKey = errors.New("no push operation key")

// keyed is a push operation that must have a key: without it, its outcome could not be followed.
type keyed struct{ PushOperation }

func (k *keyed) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &k.PushOperation); err != nil {
		return err
	}
	if k.PushOperationKey == "" {
		return errNoOperationKey
	}
	return nil
}

// optional is a value that is zero when the answer is anything but an object.
type optional[T any] struct{ value T }

func (o *optional[T]) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		return json.Unmarshal(b, &o.value)
	}
	return nil
}
