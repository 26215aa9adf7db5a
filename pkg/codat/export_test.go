package codat

// Decode decodes the payload of a body of this type. The value is a P where the type's constant is a Name[P].
func (t Type) Decode(body []byte) (any, error) { return t.decode(body) }
