"""Operations whose default lowering or gradient is slow on some device."""
